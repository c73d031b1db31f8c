"""Misuses of grants as data: the request that is sent, and the servers that refuse it.

A server that accepts a misuse is not listed. If a new version refuses it, a test fails.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from tests.support.s3.http_requests import Request, send
from tests.support.s3.stores import SERVERS, Store

SECRET = b"the content that only the grant's holder may read"
BOTH = SERVERS
SEAWEEDFS, MINISTACK = ((name,) for name in SERVERS)


class Misuse(NamedTuple):
    """A misuse of a grant. `request` builds its request for a key with which valid use works."""

    name: str
    refused_by: tuple[str, ...]
    request: Callable[[Store, str], Request]

    def __repr__(self) -> str:
        return self.name


def parametrize_misuses(misuses: Sequence[Misuse]) -> pytest.MarkDecorator:
    """Run a test for every misuse. Raises ValueError if no server refuses one."""
    accepted = [misuse.name for misuse in misuses if not misuse.refused_by]
    if accepted:
        raise ValueError(f"refused by no server: {accepted}")
    return pytest.mark.parametrize("misuse", misuses, ids=lambda misuse: misuse.name)


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
