"""Tests of `pipeline`: durability and I/O, against real servers."""
