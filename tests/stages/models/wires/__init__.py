"""Wires, refereed by the providers' own SDKs."""
