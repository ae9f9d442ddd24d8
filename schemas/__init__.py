"""The data types of Tandem: errors, ids, spec, messages, manifest, tables. Imports no other package of Tandem."""
