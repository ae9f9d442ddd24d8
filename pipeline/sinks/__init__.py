"""The dataset's own metadata: commits, schema, catalogue, and the table formats over its files."""
