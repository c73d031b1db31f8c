"""A webhook client that reaches no network."""

from collections.abc import Callable
from datetime import timedelta
from threading import Lock

from worker.base.webhook_client import WebhookFailure, WebhookResponse

NO_RESPONSE = 0


class FakeWebhookClient:
    """A client that records the hosts, bodies and headers of its calls, and how many run at once.

    statuses contains the response of a host, or NO_RESPONSE; other hosts respond with 204. Each
    response has the same retry_after. on_call is called with each host before it responds.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: dict[str, int] = {}
        self.retry_after: timedelta | None = None
        self.on_call: Callable[[str], None] = lambda _: None
        self.most_running = 0
        self._running = 0
        self._lock = Lock()

    def post(self, url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        """Record a call, and return the host's response."""
        host = url.split("/")[2]
        with self._lock:
            self.calls.append(host)
            self.bodies.append(body)
            self.headers.append(headers)
            self._running += 1
            self.most_running = max(self.most_running, self._running)
        try:
            self.on_call(host)
            status = self.statuses.get(host, 204)
            if status == NO_RESPONSE:
                raise WebhookFailure("timed_out", host)
            return WebhookResponse(status, self.retry_after)
        finally:
            with self._lock:
                self._running -= 1
