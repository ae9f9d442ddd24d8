"""Forgetting: rows are removed from everything that a sink holds, by the value of their key.

    identities      the rows, as values of the key; their identities, plain or as salted digests
    note            what is under way, so that a killed command can be finished; and the receipt. Neither has row data
    tables          Parquet files: which rows of them are forgotten, and the file without them
    search          where in the sink the rows are
    partitions      a partition published anew without them, from its own files; earlier generations removed
    journals        the records of all journals without theirs, but for answers that other rows need
    equal_rows      rows that stay and whose answers are recorded under a forgotten row's name
    run_folders     reports, statistics, pages and rejects of runs
    leftovers       derived and staged objects: snapshots, staging, answer index, interrupted writes

Each step removes what it finds, so a repeated command finishes what a killed one began.
`pipeline.operations.forget` has the order of the steps.
"""
