"""Delta and Iceberg tables over the published files."""
