"""Built-in graphs and users' own."""
