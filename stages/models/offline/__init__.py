"""The `offline:` model of demos and tests: no key, no network, no understanding claimed."""
