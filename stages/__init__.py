"""Stages over rows: graphs, models, limits, the journal. Knows neither Temporal nor object storage."""
