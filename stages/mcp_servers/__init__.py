"""Servers of the Model Context Protocol: a session each, for as long as the process works."""
