"""What nobody may do with a grant, as data: what is sent, and which servers refuse it.

A server that accepts a misuse is listed by its absence: should it learn to refuse, a test says so.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from tests.support.s3.http_requests import Request, send
from tests.support.s3.stores import SERVERS, Store

SECRET = b"what only a rightful client may read"
BOTH = SERVERS
SEAWEEDFS, MINISTACK = ((name,) for name in SERVERS)


class Misuse(NamedTuple):
    """The request is made for one key, under which the rightful use of a grant just worked."""

    name: str
    refused_by: tuple[str, ...]
    request: Callable[[Store, str], Request]

    def __repr__(self) -> str:
        return self.name


def each(misuses: Sequence[Misuse]) -> pytest.MarkDecorator:
    """Run a test for every misuse; one that no server refuses is none of ours to publish."""
    accepted = [misuse.name for misuse in misuses if not misuse.refused_by]
    if accepted:
        raise ValueError(f"refused by no server: {accepted}")
    return pytest.mark.parametrize("misuse", misuses, ids=lambda misuse: misuse.name)


def prove(store: Store, misuse: Misuse, key: str, rightful: Request) -> None:
    """Fail unless the rightful request works, and the misuse is refused where it is said to be.

    Refused means that the answer is no success, discloses nothing, and changes no object.
    """
    misused = misuse.request(store, key)
    assert send(rightful).accepted
    before = store.objects()
    answer = send(misused)
    refused = not answer.accepted and SECRET not in answer.body and store.objects() == before
    assert refused == (store.name in misuse.refused_by), f"{store.name}: HTTP {answer.status}"
