"""A process that asks Temporal for something: connect, look before money, start, follow, find."""
