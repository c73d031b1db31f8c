"""HTTP requests to storage as the holder of a grant sends them: byte for byte, in bounded time."""

import logging
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from valetkey.delivery.causes import exception_chain
from worker.errors import Transient
from worker.logs import scrub

MAX_BODY_BYTES = 6 * 1024**2
_FILE_NAME = "file"
_ERROR_BYTES = 10_000
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,300})")
# Addresses, and what may be a signature, a token or a key id: long, and with a digit.
_SECRETS = re.compile(r"\w+://\S+|\?\S+|(?=\S*[0-9])[A-Za-z0-9+/=_-]{16,}")

# At INFO, httpx logs URLs.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class StorageRequest:
    """One HTTP request. `form` lists the parts of its form in order, the file as bytes."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    form: Sequence[tuple[str, str | bytes]] = field(default=(), repr=False)


class StorageResponse(NamedTuple):
    """The response to one request; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        """True if the request succeeded. A status of 200 may precede an error in the body.

        Source: AWS, API_CompleteMultipartUpload.html.
        """
        is_2xx = HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES
        return is_2xx and b"<Error>" not in self.body[:_ERROR_BYTES]

    @property
    def code(self) -> str:
        """Storage's error code, or an empty text."""
        match = _CODE.search(self.body[:_ERROR_BYTES])
        return "" if match is None or self.is_success else match[1].decode()

    @property
    def message(self) -> str:
        """Storage's error message without URLs and secrets, or an empty text."""
        match = _MESSAGE.search(self.body[:_ERROR_BYTES])
        if match is None or self.is_success:
            return ""
        return scrub(_SECRETS.sub("[hidden]", match[1].decode(errors="replace"))).strip()


class StorageConnection:
    """Sends requests to one server. Follows no redirects, and uses no proxy.

    The certificate authorities are those of the system, or of the variable SSL_CERT_FILE.
    """

    def __init__(self) -> None:
        context = ssl.create_default_context()
        self._http = httpx.Client(trust_env=False, verify=context, follow_redirects=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(
        self, request: StorageRequest, seconds: float, endpoint: str | None = None
    ) -> StorageResponse:
        """Send a request and return the response. Raises Transient if there is none.

        If an endpoint is given, connect to it instead of the URL's host, which remains the Host of
        the request, because that is signed.

        Each wait for the server takes at most `seconds`, so a server that sends its response byte
        by byte can take longer: the caller has to limit the time of the whole.
        """
        try:
            return self._send(request, seconds, endpoint)
        except httpx.TimeoutException:
            raise Transient(f"no response within {seconds:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            # Not the error's text: it may contain the URL.
            raise Transient(f"no response: {_describe(error)}") from None

    def _send(
        self, request: StorageRequest, seconds: float, endpoint: str | None
    ) -> StorageResponse:
        parts = urlsplit(request.url)
        target = request.url.partition(parts.netloc)[2]
        with self._http.stream(
            request.method,
            endpoint or f"{parts.scheme}://{parts.netloc}",
            headers={"host": parts.netloc, **request.headers},
            content=request.body,
            files=[(name, _form_part(value)) for name, value in request.form] or None,
            timeout=seconds,
            # httpx would normalize the path and the query.
            extensions={"target": target.encode("ascii")},
        ) as response:
            body = bytearray()
            for block in response.iter_raw():
                body += block
                if len(body) > MAX_BODY_BYTES:
                    raise ValueError("the response is too large")
            headers = {name.lower(): value for name, value in response.headers.items()}
            return StorageResponse(response.status_code, headers, bytes(body))


def _form_part(value: str | bytes) -> tuple[str | None, str | bytes]:
    return (_FILE_NAME if isinstance(value, bytes) else None, value)


def _describe(error: BaseException) -> str:
    """Return the operating system's words for an error, or the name of its class."""
    for cause in exception_chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {cause.verify_message}"
        if isinstance(cause, OSError) and isinstance(cause.errno, int) and cause.errno > 0:
            return os.strerror(cause.errno)
    return type(error).__name__
