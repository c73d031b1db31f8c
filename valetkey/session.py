"""The settings and the dispatcher of one client, which its handles use as well."""

import secrets
import time
from dataclasses import dataclass
from typing import Any, TypeVar

from valetkey.config import Config
from valetkey.delivery.dispatcher import BaseDispatcher
from valetkey.delivery.progress import BatchProgress
from valetkey.wire import requests
from valetkey.wire.chunking import uuid7
from valetkey.wire.messages import Ask
from valetkey.wire.pending import PendingMessage
from valetkey.wire.requests import GrantRequest

AnyReply = TypeVar("AnyReply")


def new_id() -> str:
    """Return a new UUIDv7: a batch id, or the task id of a request that is not a batch."""
    return uuid7(time.time_ns() // 10**6, secrets.token_bytes(10))


@dataclass(frozen=True)
class Session:
    """The settings and the dispatcher of one client."""

    config: Config
    dispatcher: BaseDispatcher

    async def ask(
        self, reply_type: type[AnyReply], ask: Ask, timeout: float | None, **fields: Any
    ) -> AnyReply:
        """Send a message that has one reply, and wait for it, at most `timeout` seconds.

        Raises Refused, NoAnswer, BrokerUnreachable.
        """
        message = requests.build_message(self.config, new_id(), ask, **fields)
        return await self.send(reply_type, message, timeout)

    async def send(
        self, reply_type: type[AnyReply], message: PendingMessage, timeout: float | None
    ) -> AnyReply:
        """Send a message as ask() does."""
        reply = await self.dispatcher.request_reply(message, timeout)
        if not isinstance(reply, reply_type):
            raise TypeError(type(reply))  # never: PendingMessage.is_answered_by has checked it
        return reply

    def start(self, request: GrantRequest) -> BatchProgress:
        """Begin to send a request for grants."""
        header, messages = requests.header_and_messages(request, self.config, new_id())
        batch = BatchProgress(header, messages, request.first_chunk)
        self.dispatcher.start(batch)
        return batch
