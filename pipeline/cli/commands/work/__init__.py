"""Commands that check, plan and do work."""
