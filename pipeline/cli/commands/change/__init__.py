"""Commands that change runs, schedules, outputs or the answers of people."""
