"""Errors of S3 and boto3 as errors of ours, with hints."""

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto

from pipeline.stores.s3_environment import endpoint
from schemas.errors import ObjectExists, ObjectMissing, StoreError, StoreRefused

FOREIGN = (boto.ClientError, boto.BotoCoreError, boto.HTTPClientError, Boto3Error)

_CREDENTIALS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
_REGION = "Set AWS_REGION to the bucket's region."

_REFUSED = {
    "NoSuchBucket": ("the bucket {bucket!r} does not exist", "Create it, or check its name and AWS_ENDPOINT_URL."),
    "AccessDenied": ("access is denied", "Let AWS_ACCESS_KEY_ID or AWS_PROFILE get, put and list there."),
    "InvalidAccessKeyId": ("the access key is unknown", _CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", _CREDENTIALS),
    "ExpiredToken": ("the credentials have expired", "Log in again, or renew AWS_SESSION_TOKEN or AWS_PROFILE."),
    "InvalidToken": ("the session token is wrong", "Renew or unset AWS_SESSION_TOKEN, or check AWS_PROFILE."),
    "RequestTimeTooSkewed": ("this machine's clock is too far off", "Set the clock (NTP), then run it again."),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION),
    "NotImplemented": ("the server lacks a request that Tandem needs", "Test a store with: tandem check"),
    "KeyTooLongError": ("the name is too long", "Use a shorter prefix or shorter partition values."),
}
_SAME = {
    "301": "PermanentRedirect",
    "401": "AccessDenied",
    "403": "AccessDenied",
    "501": "NotImplemented",
    "AllAccessDisabled": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "TokenRefreshRequired": "ExpiredToken",
    "IllegalLocationConstraint": "IllegalLocationConstraintException",
}


_UNREACHABLE = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
_LOST = (boto.HTTPClientError, boto.IncompleteReadError)
_OF_THE_MACHINE = ("iam-role", "container-role")
_NO_CREDENTIALS = (
    *(boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError),
    *(boto.TokenRetrievalError, boto.SSOError),
)


def keys_out_of_reach(exc: BaseException) -> bool:
    """True if the machine, or the container, that gives this process its keys did not give them now."""
    provider = getattr(exc, "kwargs", {}).get("provider")
    return isinstance(exc, boto.CredentialRetrievalError) and provider in _OF_THE_MACHINE


def store_error(exc: BaseException, bucket: str, uri: str) -> StoreError:
    """Convert an error of boto3 to ours. `uri` is the requested object or folder."""
    if isinstance(exc, Boto3Error) and isinstance(exc.__context__, FOREIGN):
        return store_error(exc.__context__, bucket, uri)  # a transfer's own wrapper
    if isinstance(exc, boto.ClientError):
        return _response_error(exc, bucket, uri)
    if isinstance(exc, _UNREACHABLE):
        server = endpoint() or "AWS"
        hint = "Check that the server is up and that AWS_ENDPOINT_URL is right."
        return StoreError(f"{uri} cannot be reached: no connection to {server}.", hint=hint)
    if isinstance(exc, _LOST):
        return StoreError(f"{uri}: the connection was lost or timed out ({type(exc).__name__}).")
    if keys_out_of_reach(exc):
        return StoreError(f"{uri} cannot be reached: the AWS credentials cannot be renewed now.")
    if isinstance(exc, _NO_CREDENTIALS):
        return StoreRefused(f"{uri} cannot be used: AWS credentials are missing.", hint=_CREDENTIALS)
    # The rest is configuration: an unknown profile, a bad endpoint or region, an invalid bucket name.
    return StoreRefused(f"{uri} cannot be used: {exc}", hint="Check AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL.")


def _response_error(exc: boto.ClientError, bucket: str, uri: str) -> StoreError:
    code = str(exc.response.get("Error", {}).get("Code", ""))
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in ("PreconditionFailed", "412"):
        return ObjectExists(f"{uri} exists.")
    if code in ("NoSuchKey", "NoSuchUpload", "404"):
        return ObjectMissing(f"{uri} does not exist.")
    known = _SAME.get(code) or (code if code in _REFUSED else _SAME.get(str(status)))
    if known:
        reason, hint = _REFUSED[known]
        return StoreRefused(
            f"{uri} cannot be used: {reason.format(bucket=bucket)} (S3 says {status} {code}).", hint=hint
        )
    return StoreError(f"{uri}: S3 answered {exc.operation_name} with {status} {code}.")
