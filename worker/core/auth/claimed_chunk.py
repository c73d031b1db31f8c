"""Reads the batch id and chunk number that a rejected message claims. Neither is trusted."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from valetkey.wire.messages import MAX_BATCH_ITEMS
from worker.core.signing import object_keys

_MAX_ID_LENGTH = 36  # characters of a UUID: longer invalid ids are cut


class ClaimedChunk(NamedTuple):
    """The batch id and the chunk number that a message claims. Neither is verified.

    batch is "" and chunk is 0 if the message has no readable value.
    """

    batch: str
    chunk: int


def message_digest(raw: Any) -> bytes:
    """Return the SHA-256 of a message, which is the same for equal messages.

    raw is a token, or JSON values. All messages that are nested too deeply have the same digest.
    """
    try:
        text = raw if isinstance(raw, str) else json.dumps(raw, sort_keys=True, default=str)
    except RecursionError:
        text = "nested deeper than can be written"
    return sha256(text.encode(errors="surrogatepass")).digest()


def parse_claimed_chunk(content: Any) -> ClaimedChunk:
    """Return the claimed batch and chunk of a message, for the response to its sender.

    The sender finds the response by the id of the task. The batch and chunk are additional help.
    The batch is printable and at most 36 characters long; the chunk is a valid chunk number.
    """
    fields = content if isinstance(content, Mapping) else {}
    batch, chunk = fields.get("batch"), fields.get("chunk")
    return ClaimedChunk(
        object_keys.printable_key(batch)[:_MAX_ID_LENGTH] if isinstance(batch, str) else "",
        chunk if type(chunk) is int and 0 <= chunk < MAX_BATCH_ITEMS else 0,
    )
