"""Inputs that went wrong once, each for a kind, with what is right."""
