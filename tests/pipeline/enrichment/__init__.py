"""Opening and enriching."""
