"""What is kept of a run: its request, plan, outcomes, reports."""
