"""Server and region for boto3: `AWS_…`, read when a client is made, as boto3 does."""

import os


def endpoint() -> str | None:
    """Return the server that the environment names instead of AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def region() -> str | None:
    """Return AWS_REGION; boto3 itself reads only `AWS_DEFAULT_REGION`."""
    return os.environ.get("AWS_REGION")
