"""The documentation is true: what it shows runs, what it names is there, what is generated is current."""
