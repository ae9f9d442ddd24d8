"""Faults on real processes, and one checker for what must hold after each of them."""
