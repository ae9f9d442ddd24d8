"""The nouns of Tandem: errors, ids, spec, messages, manifest, tables. Imports nothing of ours but itself."""
