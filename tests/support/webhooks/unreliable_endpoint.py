"""A webhook endpoint that fails in several ways, and what it received."""

import socket
import struct
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from random import Random
from threading import Lock

import standardwebhooks
import svix.webhooks

from tests.support.builders.delivery_service import SECRET
from tests.support.servers.webhook_receiver import Responder, respond_with, stream_body
from valetkey.webhooks import BatchCompleted, GrantsDecided, unwrap

_ANY_AGE = timedelta(days=10_000)
EventKey = tuple[str, str]
"""The type of an event, and its batch."""


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Send nothing until the client disconnects."""
    with suppress(OSError):
        handler.connection.recv(1)
    handler.close_connection = True


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Reset the connection."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


FAULTS: dict[str, tuple[float, Responder]] = {
    "5xx": (0.30, respond_with(503)),
    "time-out": (0.10, hang),
    "reset": (0.05, reset),
    "slow body": (0.05, stream_body(b"x", pause=0.1)),
}
"""What the endpoint does instead of accepting a webhook, and in which part of the attempts."""


@dataclass
class UnreliableEndpoint:
    """Responds to webhooks. With is_down, it accepts none.

    accepted contains the ids of the webhooks with a complete response, ids those of each event.
    """

    is_down: bool = False
    responses: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    ids: defaultdict[EventKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    _random: Random = field(default_factory=lambda: Random(1))
    _lock: Lock = field(default_factory=Lock)

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Respond in one of the ways."""
        with self._lock:
            fault = "5xx" if self.is_down else self._choose_fault()
            self.responses[fault] += 1
            if fault == "none":
                self.accepted.add(handler.headers["webhook-id"])
        (respond_with(204) if fault == "none" else FAULTS[fault][1])(handler)

    def _choose_fault(self) -> str:
        number = self._random.random()
        for name, (part, _) in FAULTS.items():
            number -= part
            if number < 0:
                return name
        return "none"

    def verify(self, body: bytes, headers: dict[str, str]) -> None:
        """Verify a webhook as its receivers do, and record its id."""
        standardwebhooks.Webhook(SECRET).verify(body, headers)
        svix.webhooks.Webhook(SECRET).verify(body, headers)
        event = unwrap(body, headers, SECRET, tolerance=_ANY_AGE)
        assert isinstance(event, GrantsDecided | BatchCompleted)
        self.ids[event.type, event.data.batch].add(event.id)
