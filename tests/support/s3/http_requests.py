"""Requests as clients send them: no byte of a URL or a form is changed on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from valetkey.wire.messages import Grant

_http = httpx.Client(trust_env=False, timeout=20)


@dataclass(frozen=True)
class Request:
    """One HTTP request; where it has a form, that is its parts in order, files as bytes.

    file_name is what the sender calls the files of its form.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = None
    form: Sequence[tuple[str, str | bytes]] = field(default=(), repr=False)
    file_name: str = "upload.bin"


class Answer(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300


def send(request: Request) -> Answer:
    host = urlsplit(request.url).netloc
    answer = _http.request(
        request.method,
        f"http://{host}",
        headers=dict(request.headers),
        content=request.body,
        files=[(name, _part(value, request.file_name)) for name, value in request.form] or None,
        # httpx would write the path and the query anew
        extensions={"target": request.url.partition(host)[2].encode("ascii")},
    )
    return Answer(answer.status_code, answer.headers, answer.content)


def get(url: str) -> Request:
    return Request("GET", url)


def post(grant: Grant, file: bytes) -> Request:
    """The form of a grant, filled in as it asks: its fields, then the file."""
    return Request("POST", grant.url, form=[*grant.fields.items(), ("file", file)])


def put(grant: Grant, file: bytes) -> Request:
    """The PUT of a grant, with the headers that it asks for."""
    return Request("PUT", grant.url, grant.headers, file)


def _part(value: str | bytes, file_name: str) -> tuple[str | None, str | bytes]:
    return (file_name if isinstance(value, bytes) else None, value)
