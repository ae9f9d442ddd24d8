"""Embeddings: many texts in a request, one answer each, packed as bytes."""
