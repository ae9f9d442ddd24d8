"""The spec, which a user writes: its sections, loaded from YAML with errors as sentences."""
