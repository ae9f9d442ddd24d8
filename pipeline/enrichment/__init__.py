"""Opening a partition and enriching its batches."""
