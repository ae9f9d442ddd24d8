"""The activities: thin. They turn messages into calls of the rooms that know how, and send heartbeats."""
