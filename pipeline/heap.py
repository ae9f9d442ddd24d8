"""The garbage collector of a process that works: what lives as long as it does is not looked through again and again.

Modules, schemas and compiled graphs are some 300,000 objects. A full collection went through them every 1.6 s for
200 ms each, found nothing, and every call in flight waited for it: an eighth of the rate (`python -m tests.bench
throughput`).
"""

import gc


def settle() -> None:
    """Set apart all that is there now. Call it when something large and lasting was made; what was set apart before and
    is garbage by now is freed first."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
