"""Where boto3 finds its server and region: `AWS_…`, looked up when a client is made, as boto3 does."""

import os


def endpoint() -> str | None:
    """The server that the environment names in place of AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def region() -> str | None:
    """boto3 itself reads `AWS_DEFAULT_REGION` only."""
    return os.environ.get("AWS_REGION")
