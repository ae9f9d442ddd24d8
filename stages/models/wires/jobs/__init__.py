"""Providers' batch jobs as bodies and answers, one file a protocol. No I/O."""
