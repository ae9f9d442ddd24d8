"""The report of a run as one HTML page: charts, templates, texts."""
