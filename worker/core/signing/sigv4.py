"""Signature Version 4 for S3: the signing key of a day, and the scope that signatures share.

Source: AWS, "Create a signed AWS API request" (reference_sigv-create-signed-request.html).
"""

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"
PROBE_KEY = "probe"
"""The object key of the URL that shows how boto3 writes the address of a bucket."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """AWS credentials. expires_at is None for credentials without a known expiry."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a bucket. prefix is the encoded path before an object key: "/" or "/bucket/".

    service is the name in signatures: "s3", except for services like S3 on Outposts.
    """

    scheme: str
    host: str
    prefix: str
    region: str
    service: str = "s3"


def read_target(url: str) -> Target:
    """Return the address for which boto3 presigned the URL of the object key PROBE_KEY."""
    parts = urlsplit(url)
    region, service = dict(parse_qsl(parts.query))["X-Amz-Credential"].split("/")[2:4]
    prefix = parts.path.removesuffix(PROBE_KEY)
    return Target(parts.scheme, parts.netloc, prefix, region, service)


class HmacTemplate:
    """HMAC-SHA256 (RFC 2104) of texts with a common prefix.

    The two padded keys and the prefix are hashed once. hmac.digest hashes them for every text,
    which takes twice as long.
    """

    def __init__(self, key: bytes, prefix: str) -> None:
        block = key.ljust(64, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block) + prefix.encode())
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def hexdigest(self, suffix: str) -> str:
        """Return the HMAC of the prefix and the suffix, in hexadecimal."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(suffix.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


class SigningScope:
    """The SigV4 credential scope for one time of issue and one bucket, shared by URLs and forms.

    issued_at is an aware datetime; fractions of its second are dropped.
    """

    def __init__(self, credentials: Credentials, target: Target, issued_at: datetime) -> None:
        self.timestamp = issued_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        date = self.timestamp[:8]
        path = f"{date}/{target.region}/{target.service}/aws4_request"
        self.credential = f"{credentials.access_key}/{path}"
        self._preamble = f"{ALGORITHM}\n{self.timestamp}\n{path}\n"
        self._key = _signing_key(credentials.secret_key, date, target.region, target.service)

    def request_hmac(self) -> HmacTemplate:
        """Return the HMAC that signs the hash of a canonical request."""
        return HmacTemplate(self._key, self._preamble)

    def policy_hmac(self) -> HmacTemplate:
        """Return the HMAC that signs a form's policy, which is the whole string to sign."""
        return HmacTemplate(self._key, "")


@lru_cache(maxsize=64)
def _signing_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
