"""What is around a message on its way, and around its answer on the way back."""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from valetkey.crypto.jose import InvalidToken, recipient_key_id, sign, unseal
from valetkey.crypto.keys import PrivateKey
from valetkey.errors import SealedForAnotherKey
from valetkey.wire.messages import Outcome, Reply
from valetkey.wire.refusals import UNAUTHENTICATED

DecodedResult = Reply | Literal["failed", "working"]

_FAILED = ("FAILURE", "REVOKED")
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="status")])


class _Result(BaseModel):
    status: str
    result: Any = None


class Codec:
    """Signs messages as they are sent and opens their answers; without a key, does neither.

    now tells Unix time in seconds: a message says when it was signed.
    """

    def __init__(self, key: PrivateKey | None, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now

    def encode(self, message: dict[str, Any]) -> dict[str, Any] | str:
        """The argument of a message's task: a compact JWS, or the message itself."""
        if self._key is None:
            return message
        return sign(_json({**message, "iat": int(self._now())}), self._key)

    def decode(self, raw: bytes | str) -> DecodedResult:
        """What a result of Celery's says: a reply, or how its task fares.

        With a key, an answer that is not sealed to it counts as failed, unless it refuses a message
        whose sender the service did not know. Raises SealedToAnother.
        """
        try:
            result = _parsed(raw)
            if result.status == "SUCCESS":
                return self._reply(result.result)
        except (InvalidToken, ValueError, RecursionError):
            return "failed"
        return "failed" if result.status in _FAILED else "working"

    def _reply(self, result: Any) -> Reply:
        if isinstance(result, str):
            return _read(self._unsealed(result))
        reply = _REPLY.validate_python(result)
        if self._key is not None and not _needs_no_seal(reply):
            raise InvalidToken  # whoever can write to the result store can write this
        return reply

    def _unsealed(self, token: str) -> bytes:
        key_id = recipient_key_id(token)
        if self._key is None or key_id != self._key.id:
            raise SealedForAnotherKey(key_id)
        return unseal(token, self._key)


def _needs_no_seal(reply: Reply) -> bool:
    return (
        isinstance(reply, Outcome)
        and reply.refusal is not None
        and reply.refusal.code in UNAUTHENTICATED
        and not (reply.items or reply.quotas)
    )


def _json(message: dict[str, Any]) -> bytes:
    try:
        return to_json(message)
    except ValueError:  # a lone surrogate, which a key may have: Python's JSON writes it
        return json.dumps(message).encode()


# Python's JSON, so Celery's, has lone surrogates (a refused key may), and pydantic's has not.


def _read(content: bytes) -> Reply:
    try:
        return _REPLY.validate_json(content)
    except ValidationError:
        return _REPLY.validate_python(json.loads(content))


def _parsed(raw: bytes | str) -> _Result:
    try:
        return _Result.model_validate_json(raw)
    except ValidationError:
        return _Result.model_validate(json.loads(raw))
