"""Tests of Tandem: against a real Temporal server, a real S3 server and a real HTTP model server."""
