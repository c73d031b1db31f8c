"""The settings and the dispatcher of one client, which its handles use as well."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from valetkey.arguments import TimeLimit
from valetkey.config import Config
from valetkey.delivery.dispatcher import BaseDispatcher, Condition
from valetkey.delivery.pending_request import DEFAULT_TIMEOUT, PendingRequest
from valetkey.delivery.progress import BatchProgress, SingleRequest
from valetkey.errors import BrokerUnreachable, NoAnswer, Refused
from valetkey.wire import requests
from valetkey.wire.chunking import uuid7, uuid7_time
from valetkey.wire.messages import Ask
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant, Outcome
from valetkey.wire.requests import GrantRequest

AnyReply = TypeVar("AnyReply")

_MIN_WAIT = 1.0  # seconds in which the service can still reply that the deadline has passed
_MIN_LEFT = 0.1  # of the lifetime
_MAX_MIN_LEFT = 0.5  # of the lifetime: a fresh grant has more, however short the policy makes it


class _Default(Enum):
    CLIENT_TIMEOUT = "the client's timeout"


CLIENT_TIMEOUT = _Default.CLIENT_TIMEOUT
Timeout = Annotated[
    TimeLimit | Literal[_Default.CLIENT_TIMEOUT] | None, "a number of seconds or None"
]
"""Seconds to wait, None without a limit, or by default the client's timeout."""


def new_id() -> str:
    """Return a new UUIDv7: a batch id, or the task id of a request that is not a batch."""
    return uuid7(time.time_ns() // 10**6, secrets.token_bytes(10))


class Options(NamedTuple):
    """The options of a client; its docstring describes them."""

    timeout: float | None = DEFAULT_TIMEOUT
    retries: int = 0
    min_left: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """The settings and the dispatcher of one client.

    unread_refusals has a refusal of each batch none of whose results was read, by batch id.
    begin_of returns the time in a grant id, in Unix seconds.
    """

    config: Config
    dispatcher: BaseDispatcher
    options: Options
    unread_refusals: dict[str, Refusal]
    begin_of: Callable[[str], float] = uuid7_time

    async def wait(self, request: PendingRequest, is_done: Condition, timeout: Timeout) -> None:
        """Wait until is_done(), but not beyond the deadline, as often as the client retries.

        Raises NoAnswer, BrokerUnreachable, and what the request fails with.
        """
        for retries_left in range(self.options.retries, -1, -1):
            try:
                await self.dispatcher.wait(request, is_done, self._seconds(request, timeout))
            except (NoAnswer, BrokerUnreachable) as error:
                is_over = request.deadline is not None and datetime.now(UTC) >= request.deadline
                if not retries_left or is_over or getattr(error, "is_permanent", False):
                    raise
            else:
                return

    async def ask(
        self, reply_type: type[AnyReply], ask: Ask, timeout: Timeout, **fields: Any
    ) -> AnyReply:
        """Send a message that has one reply, and wait for it, at most `timeout` seconds.

        Raises Refused, NoAnswer, BrokerUnreachable.
        """
        message = requests.build_message(self.config, new_id(), ask, **fields)
        return await self.send(reply_type, message, timeout)

    async def send(
        self, reply_type: type[AnyReply], message: PendingMessage, timeout: Timeout
    ) -> AnyReply:
        """Send a message as ask() does."""
        request = SingleRequest(message)
        await self.wait(request, lambda: request.reply is not None, timeout)
        reply = request.reply
        if isinstance(reply, Outcome) and reply.refusal is not None:
            raise Refused(reply.refusal)
        if not isinstance(reply, reply_type):
            raise TypeError(type(reply))  # never: PendingMessage.is_answered_by has checked it
        return reply

    def start(self, request: GrantRequest) -> BatchProgress:
        """Begin to send a request for grants."""
        header, messages = requests.header_and_messages(request, self.config, new_id())
        return self.start_batch(request, header, messages)

    def start_batch(
        self,
        request: GrantRequest,
        header: Mapping[str, Any],
        messages: Iterator[PendingMessage | None],
    ) -> BatchProgress:
        """Begin to send the messages of a request for grants."""
        batch = BatchProgress(header, messages, request.first_chunk)
        batch.on_progress = request.progress
        self._begin(batch)
        return batch

    def reissue(
        self, grant_id: str, options: Mapping[str, Any], batch_id: str | None = None
    ) -> BatchProgress:
        """Begin to request a fresh grant of the object of an earlier one."""
        name = batch_id or new_id()
        message = requests.reissue_message(self.config, name, grant_id, options)
        header = {"batch": name, "total": 1, "chunk_size": 1, **options}
        batch = BatchProgress(header, iter([message]))
        self._begin(batch)
        return batch

    def _begin(self, batch: BatchProgress) -> None:
        batch.unread_refusals = self.unread_refusals
        self.dispatcher.start(batch)

    def min_left(self, batch: BatchProgress) -> float:
        """Return the seconds that a result of a batch must be valid for; 0 if for none."""
        asked = self.options.min_left
        return batch.expires_in * _MIN_LEFT or 1.0 if asked is None else asked

    def without_min_left(self) -> "Session":
        """Return this session with results handed out as they are."""
        return replace(self, options=self.options._replace(min_left=0))

    def is_stale(self, batch: BatchProgress, grant: Grant) -> bool:
        """Return true if a grant has expired, or expires too soon, since it was issued.

        A grant may be that short from the beginning, and another would be as short. Its lifetime is
        counted from the time in its batch id, which this machine's clock has set in most cases. A
        lifetime that is over before it begins says that the clocks differ, or that it is forged.
        """
        min_left = self.min_left(batch)
        left = grant.expires_at.timestamp() - time.time()
        if left >= min_left or not min_left:
            return False
        lifetime = grant.expires_at.timestamp() + 1 - self.begin_of(grant.id)  # in whole seconds
        longest = _MIN_LEFT if self.options.min_left is None else _MAX_MIN_LEFT
        return lifetime > 0 and left < lifetime * longest

    def _seconds(self, request: PendingRequest, timeout: Timeout) -> float | None:
        seconds = self.options.timeout if timeout is CLIENT_TIMEOUT else timeout
        if request.deadline is None:
            return seconds
        until_deadline = (request.deadline - datetime.now(UTC)).total_seconds()
        until_deadline = max(until_deadline, _MIN_WAIT)
        return until_deadline if seconds is None else min(seconds, until_deadline)
