"""Subcommands of `tandem`; with pipeline.web the only code that knows a screen."""
