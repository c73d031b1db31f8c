"""Presigned URLs and POST forms by Signature Version 4 for S3, byte-equal to boto3's.

The URLs of a batch differ only in the key and a few values. A `UrlSigner` therefore writes the
canonical request and the URL once, with a slot for each value that differs. Signing an item fills
one template, hashes it, computes the HMAC of the hash, and fills the other template.

Sources: AWS, "Create a signed AWS API request" (reference_sigv-create-signed-request.html),
"Authenticating Requests: Using Query Parameters" (sigv4-query-string-auth.html), "Authenticating
Requests in Browser-Based Uploads Using POST" (sigv4-authentication-HTTPPOST.html) and "POST Policy"
(sigv4-HTTPPOSTConstructPolicy.html).
"""

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl, quote, urlsplit


def signature_digest(signature: str) -> bytes:
    """Return the SHA-256 of a signature, which identifies it without revealing it."""
    return sha256(signature.encode()).digest()


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
        self.key = _signing_key(credentials.secret_key, date, target.region, target.service)
        self.preamble = f"{ALGORITHM}\n{self.timestamp}\n{path}\n"
        """Precedes the hash of a canonical request in the string to sign."""


@lru_cache(maxsize=64)
def _signing_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


EMPTY: Mapping[str, str] = MappingProxyType({})

SLOT = "\0"  # occurs in no encoded text, in no JSON, and in no header that can be sent
_is_plain_text = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch
_is_plain_path = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch


def split_template(text: str, slots: int) -> list[str]:
    """Split a text at its slots, which get the odd indexes. Raises ValueError if it has others."""
    pieces = re.split(f"({SLOT})", text)
    if len(pieces) != 2 * slots + 1:
        raise ValueError("a header has a NUL, or the name of another header")
    return pieces


@dataclass(slots=True)  # not frozen: creating it would take twice as long
class SignedUrl:
    """A presigned URL, which is a bearer secret, and its signature in hexadecimal."""

    url: str = field(repr=False)
    signature: str = field(repr=False)


SignItem = Callable[[str, str], tuple[str, str]]
"""Signs one item, given its key and parameter value; returns the URL and the signature in hex."""


class _UrlLayout(NamedTuple):
    """The templates for items with the same names, and the slots of the values.

    The key has the first slot of both templates, the signature the last of the URL. A parameter has
    the same slot in both, a header has one in the request only.
    """

    request: list[str]
    url: list[str]
    query: list[tuple[int, str]]
    headers: list[tuple[int, str]]


class UrlSigner:
    """Signs the URLs of one batch.

    issued_at is an aware datetime, expires_in is in seconds. query and headers are common to the
    batch. A client has to send exactly these headers, or storage refuses the signature.
    """

    def __init__(  # noqa: PLR0913 - each is part of the signature, and named
        self,
        credentials: Credentials,
        target: Target,
        *,
        method: str,
        issued_at: datetime,
        expires_in: int,
        query: Mapping[str, str] = EMPTY,
        headers: Mapping[str, str] = EMPTY,
    ) -> None:
        scope = SigningScope(credentials, target, issued_at)
        self._sign = HmacTemplate(scope.key, scope.preamble).hexdigest
        self._target = target
        self._method = method
        self._query = {_encode(name): _encode(value) for name, value in query.items()}
        self._headers = {"host": _signed_host(target)}
        self._headers |= {name.lower(): _trim(value) for name, value in headers.items()}
        self._auth = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": _encode(scope.credential),
            "X-Amz-Date": scope.timestamp,
            "X-Amz-Expires": str(expires_in),
            "X-Amz-SignedHeaders": "",  # fixes its position; the layout fills in the names
        }
        if credentials.token is not None:
            self._auth["X-Amz-Security-Token"] = _encode(credentials.token)
        self._layouts: dict[tuple[str | None, ...], _UrlLayout] = {}

    def sign(
        self, key: str, query: Mapping[str, str] = EMPTY, headers: Mapping[str, str] = EMPTY
    ) -> SignedUrl:
        """Sign one item; its parameters and headers replace the batch's of the same name.

        The URL has the parameters sorted by name, followed by the signature's. boto3 writes the
        same bytes if its caller passes Params sorted by name and appends x-grant-id in a
        before-sign handler.
        """
        names = (*query, None, *headers)
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layouts[names] = self._make_layout(query, headers)
        request, url = layout.request.copy(), layout.url.copy()
        request[1] = url[1] = key if _is_plain_path(key) else quote(key)
        for slot, name in layout.query:
            request[slot] = url[slot] = _encode(query[name])
        for slot, name in layout.headers:
            request[slot] = _trim(headers[name])
        url[-2] = signature = self._sign(sha256("".join(request).encode()).hexdigest())
        return SignedUrl("".join(url), signature)

    def with_item_parameter(self, name: str) -> SignItem:
        """Prepare to sign items that differ in the key and in one parameter only.

        Returns a function that gives the same bytes as `sign` in three quarters of its time,
        because it looks nothing up for each item.
        """
        layout, mac = self._make_layout([name], []), self._sign
        before, _, between, _, after = layout.request
        url, _, middle, _, end, _, tail = layout.url

        def sign(key: str, value: str) -> tuple[str, str]:
            path = key if _is_plain_path(key) else quote(key)
            encoded = _encode(value)
            request = f"{before}{path}{between}{encoded}{after}"
            signature = mac(sha256(request.encode()).hexdigest())
            return f"{url}{path}{middle}{encoded}{end}{signature}{tail}", signature

        return sign

    def _make_layout(self, query: Collection[str], headers: Collection[str]) -> _UrlLayout:
        params = self._query | {_encode(name): SLOT for name in query}
        sent = self._headers | {name.lower(): SLOT for name in headers}
        signed_headers = ";".join(sorted(sent))
        auth = self._auth | {"X-Amz-SignedHeaders": _encode(signed_headers)}
        path = f"{self._target.prefix}{SLOT}"
        request = (
            f"{self._method}\n{path}\n{_join(sorted((params | auth).items()))}\n"
            + "".join(f"{name}:{value}\n" for name, value in sorted(sent.items()))
            + f"\n{signed_headers}\nUNSIGNED-PAYLOAD"
        )
        url = (
            f"{self._target.scheme}://{self._target.host}{path}"
            f"?{_join([*sorted(params.items()), *auth.items()])}&X-Amz-Signature={SLOT}"
        )
        names = [*sorted(query, key=_encode), *sorted(headers, key=str.lower)]
        slots = [(3 + 2 * index, name) for index, name in enumerate(names)]
        return _UrlLayout(
            split_template(request, slots=1 + len(names)),
            split_template(url, slots=2 + len(query)),
            slots[: len(query)],
            slots[len(query) :],
        )


def _encode(text: str) -> str:
    # quote alone would do. Most values need no encoding, and checking first halves the time.
    return text if _is_plain_text(text) else quote(text, safe="")


def _trim(value: str) -> str:
    return " ".join(value.split())


def _join(params: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{name}={value}" for name, value in params)


@lru_cache(maxsize=64)
def _signed_host(target: Target) -> str:
    """Return the host as clients send it: in lower case, its port as a number, and no default port.

    It differs from that in the URL, which boto3 leaves as the endpoint has it.
    """
    parts = urlsplit(f"{target.scheme}://{target.host}")
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    default_port = {"http": 80, "https": 443}[target.scheme]
    return host if parts.port in {None, default_port} else f"{host}:{parts.port}"


Condition: TypeAlias = Mapping[str, str] | Sequence[str | int]

FILENAME_VARIABLE = "${filename}"
"""Storage replaces this in the fields of a form by the name of the file (RESTObjectPOST.html)."""

_to_json = json.JSONEncoder().encode  # json.dumps, without its options, in half the time


@dataclass(slots=True)  # not frozen: creating it would take twice as long
class SignedForm:
    """The URL to POST to, the fields to send before the file, and the signature in hexadecimal.

    The fields are a bearer secret and do not appear in the repr. The URL alone permits nothing.
    """

    url: str
    fields: dict[str, str] = field(repr=False)
    signature: str = field(repr=False)


class _FormLayout(NamedTuple):
    """The policy and the fields of forms whose items have the same fields, and the slots of values.

    A policy has the key's condition in its last slot. The fields are in the order of boto3's.
    """

    policy: list[str]
    slots: list[tuple[int, str]]
    fields: dict[str, str]


class FormSigner:
    """Signs the forms of one batch.

    issued_at is an aware datetime, expires_in is in seconds. A client has to send exactly these
    fields. conditions are what storage checks in addition: `["content-length-range", 1, 500]`,
    `["starts-with", "$Content-Type", "image/"]`.

    The policy lists the conditions, one for each field, one for each field of the item, bucket,
    key, and those of the signature, in this order. boto3 called with the same Fields and
    Conditions writes the same bytes.
    """

    def __init__(  # noqa: PLR0913 - each is part of the signature, and named
        self,
        credentials: Credentials,
        target: Target,
        *,
        bucket: str,
        issued_at: datetime,
        expires_in: int,
        fields: Mapping[str, str] = EMPTY,
        conditions: Sequence[Condition] = (),
    ) -> None:
        scope = SigningScope(credentials, target, issued_at)
        self._sign = HmacTemplate(scope.key, "").hexdigest  # the policy is the string to sign
        # A form is sent to the bucket itself: no slash after its name, but never an empty path.
        self._url = f"{target.scheme}://{target.host}{target.prefix[:-1] or '/'}"
        self._fields = dict(fields)
        self._auth = {
            "x-amz-algorithm": ALGORITHM,
            "x-amz-credential": scope.credential,
            "x-amz-date": scope.timestamp,
        }
        if credentials.token is not None:
            self._auth["x-amz-security-token"] = credentials.token
        expires_at = issued_at.astimezone(UTC) + timedelta(seconds=expires_in)
        self._expiration = expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._conditions = [json.dumps(condition) for condition in conditions]
        self._bucket = json.dumps({"bucket": bucket})
        self._layouts: dict[tuple[str, ...], _FormLayout] = {}

    def sign(self, key: str, fields: Mapping[str, str] = EMPTY) -> SignedForm:
        """Sign one item; its fields replace the batch's of the same name.

        If the key ends in `${filename}`, the client chooses that part, as with AWS and boto3.
        """
        names = tuple(fields)
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layouts[names] = self._make_layout(names)
        document = layout.policy.copy()
        for slot, name in layout.slots:
            document[slot] = _to_json(fields[name])
        document[-2] = _key_condition(key)
        policy = b64encode("".join(document).encode()).decode()
        signature = self._sign(policy)
        form = layout.fields.copy()
        form.update(fields)
        form["key"] = key
        form["policy"] = policy
        form["x-amz-signature"] = signature
        return SignedForm(self._url, form, signature)

    def _make_layout(self, names: Sequence[str]) -> _FormLayout:
        values = {name: _to_json(value) for name, value in self._fields.items()}
        values |= dict.fromkeys(names, SLOT)
        conditions = [
            *self._conditions,
            *(f"{{{_to_json(name)}: {value}}}" for name, value in values.items()),
            self._bucket,
            SLOT,
            *(json.dumps({name: value}) for name, value in self._auth.items()),
        ]
        document = (
            f'{{"expiration": "{self._expiration}", "conditions": [{", ".join(conditions)}]}}'
        )
        item_names = [name for name, value in values.items() if value is SLOT]
        return _FormLayout(
            split_template(document, slots=len(item_names) + 1),
            [(2 * index + 1, name) for index, name in enumerate(item_names)],
            self._fields
            | dict.fromkeys([*names, "key"], "")
            | self._auth
            | {"policy": "", "x-amz-signature": ""},
        )


def _key_condition(key: str) -> str:
    if key.endswith(FILENAME_VARIABLE):
        return json.dumps(["starts-with", "$key", key.removesuffix(FILENAME_VARIABLE)])
    return f'{{"key": {_to_json(key)}}}'
