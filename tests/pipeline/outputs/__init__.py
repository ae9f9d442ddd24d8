"""For readers and operators."""
