"""Tests of `pipeline.sources`."""
