"""Histories of real runs, recorded by `record.py`: today's workflows must replay them."""
