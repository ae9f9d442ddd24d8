"""The journal on a store."""
