"""Lineage of runs, in OpenLineage's form, for those who set its variables or have its configuration file.

    START     the run's plan is begun
    RUNNING   it is planned: datasets, their columns, and which columns each was made from
    COMPLETE  the run ended, with what it read, published and rejected · FAIL it failed · ABORT it was cancelled, or a
              limit stopped it; where it is resumed, START comes again, of the same run

Events are sent by activities, never by workflow code. A backend that is away fails nothing.
"""
