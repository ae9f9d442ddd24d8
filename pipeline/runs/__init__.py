"""Stored records of a run: its request, plan, outcomes, reports."""
