"""The dataset's answers: an index that tells in which partitions' journals an answer is, and look-ups in it.

    filters         which keys are surely not in a file, without reading it
    index_files     one immutable file of sorted keys
    index           the files of a sink together: written at commits, merged in levels
    coverage        which journals the index has; the rest is indexed or read directly
    elsewhere       the records of some rows in the journals of other partitions and other sinks

The index is derived: without it, everything is read from the journals again, and it is written anew.
"""
