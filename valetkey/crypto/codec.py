"""Encodes messages for the broker and decodes results from the result store."""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from valetkey.crypto.jose import InvalidToken, recipient_key_id, sign, unseal
from valetkey.crypto.keys import PrivateKey
from valetkey.errors import SealedForAnotherKey, UnreadableReply
from valetkey.wire.refusals import UNAUTHENTICATED, Code
from valetkey.wire.replies import Outcome, Reply
from valetkey.wire.strict_json import parse_json
from valetkey.wire.unavailable import Unavailable, read_unavailable

DecodedResult = Reply | Unavailable | Literal["failed", "working"]
"""A reply, or the state of a task that has none: failed, not finished yet, or why it waits."""

# A message whose deadline has passed is refused unread.
PLAIN_CODES = UNAUTHENTICATED | {Code.DEADLINE_PASSED}
_FAILED_STATES = ("FAILURE", "REVOKED")
_REPLY_ADAPTER: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="status")])


class _CeleryResult(BaseModel):
    status: str
    result: Any = None


class Codec:
    """Signs messages and decrypts results. Without a key it passes both on as plain JSON.

    clock returns Unix time in seconds; a signed message has the time of signing as `iat`.
    """

    def __init__(self, key: PrivateKey | None, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock

    def encode(self, message: dict[str, Any]) -> dict[str, Any] | str:
        """Return the task argument of a message: a compact JWS, or without a key the message."""
        if self._key is None:
            return message
        return sign(_dump_json({**message, "iat": int(self._clock())}), self._key)

    def decode(self, raw: bytes | str) -> DecodedResult:
        """Return the reply in a Celery result, or the state of its task.

        raw is the JSON that Celery stores: `{"status": …, "result": …}`. With a key, a plain reply
        counts as failed, unless it refuses a message unread (PLAIN_CODES). Raises
        SealedForAnotherKey if the reply is encrypted to a key other than this codec's, and
        UnreadableReply if it is a reply of the service that this release does not understand.
        """
        try:
            result = _CeleryResult.model_validate(parse_json(raw))
            if result.status == "SUCCESS":
                return self._decode_reply(result.result)
        except (InvalidToken, ValueError):
            return "failed"
        is_failed = result.status in _FAILED_STATES
        hint = read_unavailable(result.result, self._clock())
        if hint is not None and is_failed == (hint.retry_in is None):
            return hint
        return "failed" if is_failed else "working"

    def _decode_reply(self, payload: Any) -> Reply:
        if isinstance(payload, str):
            return _parse_reply(self._unseal(payload))
        if self._key is None:
            return _read_reply(payload)
        reply = _REPLY_ADAPTER.validate_python(payload)
        if not _may_be_plain(reply):
            raise InvalidToken  # anyone with write access to the result store could have written it
        return reply

    def _unseal(self, token: str) -> bytes:
        key_id = recipient_key_id(token)
        if self._key is None or key_id != self._key.id:
            raise SealedForAnotherKey(key_id)
        return unseal(token, self._key)


def _may_be_plain(reply: Reply) -> bool:
    # A plain reply can be forged, so it may state nothing but the refusal. An unknown code may be
    # one for unauthenticated messages; to forge it gains no more than to forge a known one.
    return (
        isinstance(reply, Outcome)
        and reply.refusal is not None
        and (reply.refusal.code in PLAIN_CODES or not isinstance(reply.refusal.code, Code))
        and not (reply.items or reply.quotas)
    )


# Pydantic's JSON refuses lone surrogates, which an object key may contain; Python's JSON, and so
# Celery's, accepts them. The service refuses such a key, and its refusal repeats the key. What is
# sealed is therefore read by pydantic, which is faster, and then by Python.


def _dump_json(message: dict[str, Any]) -> bytes:
    try:
        return to_json(message)
    except ValueError:
        return json.dumps(message).encode()


def _parse_reply(content: bytes) -> Reply:
    try:
        return _REPLY_ADAPTER.validate_json(content)
    except ValidationError:
        pass
    return _read_reply(parse_json(content))


def _read_reply(values: Any) -> Reply:
    """Read a reply from JSON values.

    Raises UnreadableReply for an object with a status: to send the message again would change
    nothing. Raises ValueError for anything else, which no service sends.
    """
    try:
        return _REPLY_ADAPTER.validate_python(values)
    except ValidationError:
        status = values.get("status") if isinstance(values, dict) else None
    # Raised here and not above: the ValidationError, which contains the reply, is not its context.
    if isinstance(status, str):
        raise UnreadableReply(status)
    raise ValueError
