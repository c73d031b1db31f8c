"""Signature Version 4 for S3: the day's key, and what all signatures of a batch have in common.

Source: AWS, "Create a signed AWS API request" (reference_sigv-create-signed-request.html).
"""

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs; expires_at is when storage stops accepting it, None where nobody knows."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a bucket's keys live; prefix is the encoded path before a key: "/" or "/bucket/".

    service is what signatures name: "s3", but for S3 on Outposts and its other relatives.
    """

    scheme: str
    host: str
    prefix: str
    region: str
    service: str = "s3"


class HmacTemplate:
    """HMAC-SHA256 (RFC 2104) of texts that begin alike.

    The two padded keys and the beginning are hashed once; hmac.digest would hash them for every
    text, and takes twice as long.
    """

    def __init__(self, key: bytes, beginning: str) -> None:
        block = key.ljust(64, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block) + beginning.encode())
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def hexdigest(self, rest: str) -> str:
        """The code of the beginning and the rest, in hex."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(rest.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


class SigningScope:
    """What credentials sign at one second for one target, be it URLs or forms.

    issued_at is aware; fractions of its second are dropped.
    """

    def __init__(self, credentials: Credentials, target: Target, issued_at: datetime) -> None:
        self.timestamp = issued_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        date = self.timestamp[:8]
        path = f"{date}/{target.region}/{target.service}/aws4_request"
        self.credential = f"{credentials.access_key}/{path}"
        self._preamble = f"{ALGORITHM}\n{self.timestamp}\n{path}\n"
        self._key = _signing_key(credentials.secret_key, date, target.region, target.service)

    def of_requests(self) -> HmacTemplate:
        """Signs the hash of a canonical request."""
        return HmacTemplate(self._key, self._preamble)

    def of_policies(self) -> HmacTemplate:
        """Signs the policy of a form, which stands in its string to sign alone."""
        return HmacTemplate(self._key, "")


@lru_cache(maxsize=64)
def _signing_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
