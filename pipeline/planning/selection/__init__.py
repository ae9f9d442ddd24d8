"""Which partitions a command is about: selected, due by calendar, retired as their input is gone."""
