"""Refuses a message that asks for a feature without which this service runs."""

from typing import TypeVar

from valetkey.wire.messages import AnyMessage, ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from worker.features import REQUEST_FIELDS, contributions
from worker.rules.policy_rules import refuse

HANDLERS = contributions("asks")
"""The functions that respond to messages, by their `ask`."""

OPTIONAL_FIELDS = ("callback", "notify", "manifest")
"""The fields of a request that features carry out, in the order in which one is refused."""

_MISSING_FIELDS = tuple(name for name in OPTIONAL_FIELDS if name not in REQUEST_FIELDS)
_Message = TypeVar("_Message", bound=AnyMessage)


def require_features(message: _Message | Refusal) -> _Message | Refusal:
    """Return the message, or the refusal of its first field that no feature carries out.

    A refusal is returned as it is.
    """
    if isinstance(message, Refusal):
        return message
    names = _MISSING_FIELDS if isinstance(message, ChunkMessage) else ()
    missing = [name for name in names if getattr(message, name) is not None]
    if message.ask not in HANDLERS:
        missing.insert(0, "ask")
    if not missing:
        return message
    text = "this service runs without the feature for it"
    return refuse(Code.FEATURE_MISSING, missing[0], text)
