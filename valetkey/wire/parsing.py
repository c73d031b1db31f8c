"""Parsing of messages: returns the message, or a refusal that names the wrong field."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from valetkey.units import describe_duration, describe_size
from valetkey.wire.messages import VERSION, AnyMessage, Ask, ChunkMessage, unbundled_field
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_OBJECT_BYTES, MAX_PARTS, NO_CONTROL_CHARACTERS

_CODE_BY_FIELD = {
    "v": Code.VERSION_UNKNOWN,
    "expires_in": Code.EXPIRY_INVALID,
    "min_expires_in": Code.EXPIRY_INVALID,
    "kind": Code.KIND_NOT_ALLOWED,
    "grant": Code.KIND_NOT_ALLOWED,
    "max_size": Code.SIZE_INVALID,
    "min_size": Code.SIZE_INVALID,
    "size": Code.SIZE_INVALID,
    "part": Code.PART_INVALID,
    "part_size": Code.PART_INVALID,
    "version_id": Code.VERSION_INVALID,
    "storage_class": Code.STORAGE_CLASS_NOT_ALLOWED,
    "of": Code.UPLOAD_UNKNOWN,
    "content_type": Code.CONTENT_TYPE_INVALID,
    "acl": Code.ACL_NOT_ALLOWED,
    "metadata": Code.METADATA_INVALID,
    "filename": Code.FILENAME_INVALID,
    "key": Code.KEY_INVALID,
    "manifest": Code.KEY_INVALID,
    "total": Code.BATCH_TOO_LARGE,
    "items": Code.BATCH_TOO_LARGE,
    "messages": Code.BATCH_TOO_LARGE,
    "chunk": Code.CHUNK_INVALID,
    "chunk_size": Code.CHUNK_INVALID,
}
_CODE_BY_OBJECT = {
    "metadata": Code.METADATA_INVALID,
    "tags": Code.TAGS_INVALID,
    "checksum": Code.CHECKSUM_INVALID,
    "encryption": Code.ENCRYPTION_NOT_ALLOWED,
}
_CLASS_BY_ASK: Mapping[str, type[AnyMessage]] = {
    ask: message_class
    for message_class in get_args(AnyMessage)
    for ask in get_args(message_class.model_fields["ask"].annotation)
}
_LIMIT_BY_CODE = {
    Code.EXPIRY_INVALID: MAX_EXPIRES_IN,
    Code.PART_INVALID: MAX_PARTS,
    Code.SIZE_INVALID: MAX_OBJECT_BYTES,
    Code.SIZE_REQUIRED: MAX_OBJECT_BYTES,
    Code.VERSION_UNKNOWN: VERSION,
}
_CONTEXT_LIMITS = ("le", "ge", "max_length", "min_length", "expected_tags", "pattern")
_MAX_PATH_LENGTH = 120  # characters: the sender chooses the name of an unknown field
_UPPER_LIMIT_ERRORS = ("less_than_equal", "too_long")

_DURATIONS = frozenset({"expires_in", "min_expires_in"})
_SIZES = frozenset({"max_size", "min_size", "part_size", "size"})
# By pydantic's error type. None of these messages repeats the refused value.
_MESSAGES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a JSON object",
    "extra_forbidden": "unknown field: check its spelling, or remove it",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a JSON array",
    "literal_error": "must be {expected}",
    "missing": "this field is required",
    "model_attributes_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "string_pattern_mismatch": "must match the regular expression {pattern}",
    "string_too_long": "must have at most {max_length:,} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "string_unicode": "must be a string that UTF-8 can encode",
    "too_long": "must have at most {max_length:,} entries",
    "too_short": "must not be empty",
    "union_tag_invalid": "kind must be one of {expected_tags}",
    "union_tag_not_found": "kind is required",
}


def parse_message(raw: Any) -> AnyMessage | Refusal:
    """Return the message in these JSON values, or the refusal of its first wrong field.

    raw may be any value. Anything but a message of wire version 1 returns a refusal. The refusal
    names the first wrong field and the limit that it exceeds, and never repeats the value.
    """
    try:
        message: AnyMessage = _message_class(raw).model_validate(raw)
    except ValidationError as error:
        return _refusal(_first_error(error.errors(include_url=False, include_input=False)))
    return (isinstance(message, ChunkMessage) and _terms_refusal(message)) or message


def parse_bundled(raw: Any, tenant: str) -> ChunkMessage | Refusal:
    """Return one of the messages in a tenant's bundle, or the refusal of its first wrong field."""
    message = parse_message(raw)
    if isinstance(message, Refusal):
        return message
    if message.tenant != tenant:
        text = "the message names another tenant than its bundle"
        return Refusal(code=Code.TENANT_MISMATCH, field="tenant", message=text, limit=tenant)
    field = unbundled_field(raw)
    if isinstance(message, ChunkMessage) and field is None:
        return message
    text = "a bundle contains no such message: send it alone"
    return Refusal(code=Code.MALFORMED, field=field or "ask", message=text)


def _message_class(raw: Any) -> type[AnyMessage]:
    ask = raw.get("ask") if isinstance(raw, dict) else None
    return _CLASS_BY_ASK.get(ask, ChunkMessage) if isinstance(ask, str) else ChunkMessage


def _first_error(errors: list[ErrorDetails]) -> ErrorDetails:
    """Return the error to report: the first one, but an unknown ask before its other fields."""
    if errors[0]["loc"] == ("v",):
        return errors[0]
    return next((error for error in errors if error["loc"] == ("ask",)), errors[0])


def _refusal(error: ErrorDetails) -> Refusal:
    if error["loc"] == ():
        return _whole_message_refusal(error)
    code, context = _code(error), error.get("ctx", {})
    limits = (context[name] for name in _CONTEXT_LIMITS if name in context)
    limit = next(limits, _LIMIT_BY_CODE.get(code))
    return Refusal(code=code, field=_path(error["loc"]), message=_message(error), limit=limit)


def _whole_message_refusal(error: ErrorDetails) -> Refusal:
    if error["type"] == "value_error":
        message = (
            "chunk, chunk_size, total and items do not agree: every chunk has chunk_size items, "
            "and the last one the remainder of total"
        )
        return Refusal(code=Code.CHUNK_INVALID, field="items", message=message)
    message = f"the message must be a JSON object of version {VERSION}"
    return Refusal(code=Code.MALFORMED, field="", message=message)


def _code(error: ErrorDetails) -> Code:
    name = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return Code.UNKNOWN_FIELD
    if error["loc"] == ("of",):
        return Code.GRANT_UNKNOWN
    if error["type"] == "missing":
        return Code.SIZE_REQUIRED if name == "max_size" else Code.MALFORMED
    for object_name, code in _CODE_BY_OBJECT.items():
        if object_name in error["loc"]:
            return code
    code = _CODE_BY_FIELD.get(name, Code.MALFORMED)
    if code is Code.BATCH_TOO_LARGE and error["type"] not in _UPPER_LIMIT_ERRORS:
        return Code.MALFORMED
    return code


def _path(location: tuple[int | str, ...]) -> str:
    # Pydantic's path has the kind after "grant": the tag of the union, which is not a field.
    steps = [step for i, step in enumerate(location) if not (i == 1 and location[0] == "grant")]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path[1:_MAX_PATH_LENGTH]


def _message(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["loc"] == ("ask",):  # pydantic knows the values of one message class only
        *others, last = map(repr, get_args(Ask))
        return f"must be {', '.join(others)} or {last}"
    if error["loc"] == ("v",):
        return f"must be {VERSION}, the version of the messages that is read"
    if context.get("pattern") == NO_CONTROL_CHARACTERS:
        return "must not contain control characters"
    if error["type"].startswith(("datetime", "timezone")):
        return "must be an RFC 3339 date and time with a time zone, like 2026-11-24T12:00:00Z"
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    bounds = {
        name: _describe_bound(error, context[name]) for name in ("ge", "le") if name in context
    }
    return template.format(**context | bounds)


def _describe_bound(error: ErrorDetails, number: int) -> str:
    name = error["loc"][-1]
    if name in _DURATIONS:
        return describe_duration(number)
    return describe_size(number) if name in _SIZES else f"{number:,}"


def _terms_refusal(message: ChunkMessage) -> Refusal | None:
    terms = message.grant
    if terms.min_expires_in is not None and terms.min_expires_in > terms.expires_in:
        expires_in = describe_duration(terms.expires_in)
        return Refusal(
            code=Code.EXPIRY_INVALID,
            field="grant.min_expires_in",
            message=f"min_expires_in must be at most expires_in, {expires_in}",
            limit=terms.expires_in,
        )
    if terms.kind == "upload" and terms.min_size > terms.max_size:
        return Refusal(
            code=Code.SIZE_INVALID,
            field="grant.min_size",
            message=f"min_size must be at most max_size, {describe_size(terms.max_size)}",
            limit=terms.max_size,
        )
    return None
