"""Publishing: from staged batches to a committed generation, in bounded memory, without Temporal."""
