"""Misuses of grants as data: the request that is sent, and the servers that refuse it.

A server that accepts a misuse is not listed. If a new version refuses it, a test fails.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from tests.support.s3.http_requests import Request, send
from tests.support.s3.stores import SERVERS, Store

QueryChange = Callable[[list[str]], list[str]]


def change_query(url: str, change: QueryChange) -> str:
    path, _, query = url.partition("?")
    return f"{path}?{'&'.join(change(query.split('&')))}"


def remove_parameters(*names: str) -> QueryChange:
    return lambda query: [
        parameter for parameter in query if parameter.partition("=")[0] not in names
    ]


def replace_parameter(name: str, value: str) -> QueryChange:
    return lambda query: [*remove_parameters(name)(query), f"{name}={value}"]


def append_parameters(*parameters: str) -> QueryChange:
    return lambda query: [*query, *parameters]


def prepend_parameters(*parameters: str) -> QueryChange:
    return lambda query: [*parameters, *query]


def tamper_parameter(name: str) -> QueryChange:
    """Change the last character of a parameter's value."""

    def change(query: list[str]) -> list[str]:
        (parameter,) = [parameter for parameter in query if parameter.startswith(f"{name}=")]
        last = "0" if parameter[-1] != "0" else "1"
        return replace_parameter(name, parameter.partition("=")[2][:-1] + last)(query)

    return change


SECRET = b"the content that only the grant's holder may read"
BOTH = SERVERS
SEAWEEDFS, MINISTACK = ((name,) for name in SERVERS)
MakeRequest = Callable[[Store, str], Request]
QUERY_CHANGES: dict[str, tuple[tuple[str, ...], QueryChange]] = {
    "signature tampered": (BOTH, tamper_parameter("X-Amz-Signature")),
    "signature removed": (SEAWEEDFS, remove_parameters("X-Amz-Signature")),
    # If the right signature came first, both servers would ignore the second one.
    "signature doubled": (BOTH, prepend_parameters(f"X-Amz-Signature={'0' * 64}")),
    "life prolonged": (BOTH, replace_parameter("X-Amz-Expires", "86400")),
    "life doubled, longer last": (BOTH, append_parameters("X-Amz-Expires=86400")),
    "life doubled, longer first": (BOTH, prepend_parameters("X-Amz-Expires=86400")),
    "life removed": (BOTH, remove_parameters("X-Amz-Expires")),
    "date changed": (BOTH, replace_parameter("X-Amz-Date", "20990101T000000Z")),
    "date removed": (BOTH, remove_parameters("X-Amz-Date")),
    "algorithm removed": (SEAWEEDFS, remove_parameters("X-Amz-Algorithm")),
    "credential removed": (BOTH, remove_parameters("X-Amz-Credential")),
    "signed headers removed": (BOTH, remove_parameters("X-Amz-SignedHeaders")),
    "all parameters removed": (BOTH, lambda _: []),
    "grant id changed": (BOTH, tamper_parameter("x-grant-id")),
    "grant id removed": (BOTH, remove_parameters("x-grant-id")),
    "grant id doubled": (BOTH, append_parameters("x-grant-id=mine")),
    "parameter added": (BOTH, append_parameters("foo=bar")),
    "version added": (BOTH, append_parameters("versionId=null")),
    "access list asked for": (BOTH, prepend_parameters("acl")),
    "tags asked for": (BOTH, prepend_parameters("tagging")),
}
"""Changes to the query of any signed URL, and the servers that refuse each."""
OTHER_SIGNATURES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "expired": (BOTH, {"issued": timedelta(seconds=-61), "expires_in": 60}),
    "not yet valid": (MINISTACK, {"issued": timedelta(hours=2)}),
    "signed for over seven days": (BOTH, {"expires_in": 604_801}),
    "signed with a wrong secret": (BOTH, {"secret_key": "wrong"}),
    "signed with an unknown key": (BOTH, {"access_key": "AKIDUNKNOWN"}),
    "signed with a made-up session": (BOTH, {"token": "made up"}),
    "signed for another region": (MINISTACK, {"region": "eu-west-1"}),
}
"""Arguments of Store.sign, and the servers that refuse a URL that is signed like that."""


class Misuse(NamedTuple):
    """A misuse of a grant. `request` builds its request for a key with which valid use works."""

    name: str
    refused_by: tuple[str, ...]
    request: MakeRequest

    def __repr__(self) -> str:
        return self.name


def parametrize_misuses(misuses: Sequence[Misuse]) -> pytest.MarkDecorator:
    """Run a test for every misuse. Raises ValueError if no server refuses one."""
    accepted = [misuse.name for misuse in misuses if not misuse.refused_by]
    if accepted:
        raise ValueError(f"refused by no server: {accepted}")
    return pytest.mark.parametrize("misuse", misuses, ids=lambda misuse: misuse.name)


def change_request(make: MakeRequest, query: QueryChange = list, **fields: Any) -> MakeRequest:
    """Return requests whose query and other fields are changed."""

    def request(store: Store, key: str) -> Request:
        original = make(store, key)
        return replace(original, **{"url": change_query(original.url, query), **fields})

    return request


def url_misuses(make: MakeRequest, signed_with: Callable[..., MakeRequest]) -> Iterator[Misuse]:
    """Return misuses of a signed URL: its query is changed, or it was signed differently."""
    for name, (refused_by, change) in QUERY_CHANGES.items():
        yield Misuse(name, refused_by, change_request(make, change))
    for name, (refused_by, overrides) in OTHER_SIGNATURES.items():
        yield Misuse(name, refused_by, signed_with(**overrides))


def check_misuse(store: Store, misuse: Misuse, key: str, valid_request: Request) -> None:
    """Check that the valid request works, and that exactly the listed servers refuse the misuse.

    A refusal is a response that is no success, discloses nothing and changes no object.
    """
    misuse_request = misuse.request(store, key)
    assert send(valid_request).is_success
    before = store.objects()
    response = send(misuse_request)
    refused = not response.is_success and SECRET not in response.body and store.objects() == before
    assert refused == (store.name in misuse.refused_by), f"{store.name}: HTTP {response.status}"
