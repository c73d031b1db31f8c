"""A proxy in front of a real storage, which loses, delays or replaces its answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

import httpx

from tests.support.fakes.http_storage import (
    HttpStorage,
    StorageResponse,
    StoredRequest,
    running_http_storage,
)

Interfere = Callable[[StoredRequest, Callable[[], StorageResponse]], StorageResponse]
"""Returns the response to a request; calling its second argument gets that of the storage."""

SLOW_DOWN = StorageResponse(503, body=b"<Error><Code>SlowDown</Code></Error>")
HUNG_UP = StorageResponse(0)
_HOP_HEADERS = frozenset({"connection", "transfer-encoding", "content-length"})


class UnreliableStorage:
    """Passes requests on to a real storage, through a function that tests replace."""

    def __init__(self, server: HttpStorage) -> None:
        self.interfere: Interfere
        self.server = server
        self.reset()

    def reset(self) -> None:
        """Pass all requests on from now, and forget those that were received."""
        self.interfere = lambda _, forward: forward()
        self.server.received.clear()

    @property
    def url(self) -> str:
        return self.server.url

    def answer_heads(self, response: StorageResponse, end: str = "") -> None:
        """Answer each HEAD of a key with this end with the response."""
        self.interfere = lambda request, forward: (
            response if request.method == "HEAD" and request.target.endswith(end) else forward()
        )

    def hide_missing(self) -> None:
        """Answer 403 for what is missing, as AWS does without s3:ListBucket."""

        def interfere(_: StoredRequest, forward: Callable[[], StorageResponse]) -> StorageResponse:
            response = forward()
            return StorageResponse(403) if response.status == 404 else response

        self.interfere = interfere

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Answer nothing until the block ends."""
        thawed = Event()

        def wait(_: StoredRequest, forward: Callable[[], StorageResponse]) -> StorageResponse:
            thawed.wait(60)
            return forward()

        self.interfere = wait
        try:
            yield
        finally:
            thawed.set()

    def count(self, method: str, query: str = "") -> int:
        """Return the number of requests of a method whose target contains a text."""
        return sum(query in request.target for request in self.server.requests(method))


@contextmanager
def unreliable_storage(endpoint: str) -> Iterator[UnreliableStorage]:
    """Run a proxy in front of the storage at an endpoint until the block ends."""
    with httpx.Client(base_url=endpoint, trust_env=False, timeout=30) as http:

        def forward(request: StoredRequest) -> StorageResponse:
            # The signature covers the host, so that of the proxy is kept.
            headers = {k: v for k, v in request.headers.items() if k not in _HOP_HEADERS}
            url = f"{endpoint}{request.target}"
            response = http.request(request.method, url, headers=headers, content=request.body)
            dropped = _HOP_HEADERS - ({"content-length"} if request.method == "HEAD" else set())
            kept = {k: v for k, v in response.headers.items() if k not in dropped}
            return StorageResponse(response.status_code, kept, response.content)

        with running_http_storage() as server:
            proxy = UnreliableStorage(server)
            server.respond = lambda request: proxy.interfere(request, lambda: forward(request))
            yield proxy


def fail_at(number: int, response: StorageResponse) -> Interfere:
    """Return an Interfere that answers the start of an upload with this number, from 1, itself."""
    starts = 0

    def interfere(
        request: StoredRequest, forward: Callable[[], StorageResponse]
    ) -> StorageResponse:
        nonlocal starts
        starts += is_start(request)
        is_target = is_start(request) and starts >= number
        return response if is_target else forward()

    return interfere


def is_start(request: StoredRequest) -> bool:
    return request.method == "POST" and request.target.endswith("?uploads")
