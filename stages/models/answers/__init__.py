"""Answers as data: request formats, parsing, and corrections that are unambiguous."""
