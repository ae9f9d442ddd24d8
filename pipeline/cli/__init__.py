"""Subcommands of `tandem`: the only code that writes to a screen."""
