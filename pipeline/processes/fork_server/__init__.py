"""A warm parent of worker processes: everything is imported once, and a further child costs milliseconds.

It is forked from the command before that has a thread, a loop or a connection, and itself only forks, waits and reports
how its children ended; so no child inherits a held lock. If it is gone (killed), a fresh interpreter replaces it.

    command ──socket──▶ fork server: START, with descriptors ──▶ "started <pid>"
            ◀──socket──              "ended <pid> <status>"
            ──socket──▶              REST: it gives its memory back, and forks again after an import

It ends with the command, and children end with it, however it is killed: by PR_SET_PDEATHSIG where the kernel has it,
and by the end of their sockets everywhere.
"""
