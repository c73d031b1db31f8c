"""Requests of usage messages, for tests of delivery that need no service."""

from types import SimpleNamespace
from typing import Any

from tests.support.builders.messages import batch_id
from valetkey.delivery.progress import BatchProgress, SingleRequest
from valetkey.wire.pending import PendingMessage, build_pending_message
from valetkey.wire.replies import Usage
from valetkey.wire.requests import GrantRequest, header_and_messages

REPLY = Usage(tenant="acme", quotas=[])


class ManyMessages(SingleRequest):
    """A request of `count` messages, whose task ids are the request's name and a number."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(usage_message(name))
        self._task_ids = [f"{name}.{number}" for number in range(count)]
        self.is_fully_sent = not count
        self.answered: list[str] = []

    def next_message(self, unread_limit: float) -> PendingMessage | None:
        """Return the next message; none while `unread_limit` of them are unanswered."""
        if self.is_fully_sent or len(self.unanswered) >= unread_limit:
            return None
        message = usage_message(self._task_ids.pop(0))
        self.is_fully_sent = not self._task_ids
        self.unanswered[message.task_id] = message
        return message

    def receive_reply(self, message: PendingMessage, reply: Any) -> None:
        super().receive_reply(message, reply)
        self.answered.append(message.task_id)


def usage_message(task_id: str) -> PendingMessage:
    return build_pending_message(task_id, {"v": 1, "ask": "usage", "tenant": "acme"})


def small_request(*keys: str, chunk_size: int = 600, **options: Any) -> BatchProgress:
    keys = keys or ("a.pdf",)
    requester = SimpleNamespace(tenant="acme", requested_by="tests")
    request = GrantRequest("download", "reports", keys, options, len(keys), chunk_size)
    header, messages = header_and_messages(request, requester, batch_id())
    return BatchProgress(header, messages)
