"""Reading a message: it is understood whole, or refused with a code and the wrong field."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from valetkey.wire.messages import (
    VERSION,
    AnyMessage,
    BatchMessage,
    CancelMessage,
    ChunkMessage,
    UsageMessage,
)
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_OBJECT_BYTES, MAX_PARTS

_BY_FIELD = {
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
    "chunk": Code.CHUNK_INVALID,
    "chunk_size": Code.CHUNK_INVALID,
}
_BY_TABLE = {
    "metadata": Code.METADATA_INVALID,
    "tags": Code.TAGS_INVALID,
    "checksum": Code.CHECKSUM_INVALID,
    "encryption": Code.ENCRYPTION_NOT_ALLOWED,
}
_ALWAYS = {
    Code.EXPIRY_INVALID: MAX_EXPIRES_IN,
    Code.PART_INVALID: MAX_PARTS,
    Code.SIZE_INVALID: MAX_OBJECT_BYTES,
    Code.SIZE_REQUIRED: MAX_OBJECT_BYTES,
    Code.VERSION_UNKNOWN: VERSION,
}
_LIMITS = ("le", "ge", "max_length", "min_length", "expected_tags", "pattern")
_LONGEST_PATH = 120  # characters: an unknown field's name is the sender's own text
_TOO_MUCH = ("less_than_equal", "too_long")


def parse_message(raw: Any) -> AnyMessage | Refusal:
    """Read a message as it came off the wire.

    Any value is taken; what is not a version 1 message gets a refusal that names the first wrong
    field and the limit it broke, and never repeats the value.
    """
    try:
        message: AnyMessage = _form(raw).model_validate(raw)
    except ValidationError as error:
        return _refusal(error.errors(include_url=False, include_input=False)[0])
    return (isinstance(message, ChunkMessage) and _contradiction(message)) or message


def _form(raw: Any) -> type[AnyMessage]:
    asked = raw.get("ask") if isinstance(raw, dict) else None
    match asked:
        case "usage":
            return UsageMessage
        case "cancel":
            return CancelMessage
        case "batch":
            return BatchMessage
    return ChunkMessage


def _refusal(error: ErrorDetails) -> Refusal:
    if error["loc"] == ():
        return _shape(error)
    code, context = _code(error), error.get("ctx", {})
    limit = next((context[name] for name in _LIMITS if name in context), _ALWAYS.get(code))
    return Refusal(code=code, field=_path(error["loc"]), message=_words(error), limit=limit)


def _words(error: ErrorDetails) -> str:
    # Pydantic's own sentence for an unknown tag repeats the tag.
    return "no such kind" if error["type"].startswith("union_tag") else error["msg"]


def _shape(error: ErrorDetails) -> Refusal:
    if error["type"] == "value_error":
        message = "a chunk holds chunk_size items, and the last one the rest of total"
        return Refusal(code=Code.CHUNK_INVALID, field="items", message=message)
    message = f"a message is a JSON object of version {VERSION}"
    return Refusal(code=Code.MALFORMED, field="", message=message)


def _code(error: ErrorDetails) -> Code:
    name = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return Code.UNKNOWN_FIELD
    if error["type"] == "missing":
        return Code.SIZE_REQUIRED if name == "max_size" else Code.MALFORMED
    for table, code in _BY_TABLE.items():
        if table in error["loc"]:
            return code
    code = _BY_FIELD.get(name, Code.MALFORMED)
    if code is Code.BATCH_TOO_LARGE and error["type"] not in _TOO_MUCH:
        return Code.MALFORMED
    return code


def _path(location: tuple[int | str, ...]) -> str:
    # The tag of a discriminated union is part of pydantic's path, and nobody's field.
    parts = [p for i, p in enumerate(location) if not (i == 1 and location[0] == "grant")]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts)[1:_LONGEST_PATH]


def _contradiction(message: ChunkMessage) -> Refusal | None:
    grant = message.grant
    if grant.min_expires_in is not None and grant.min_expires_in > grant.expires_in:
        text = "min_expires_in is over expires_in"
        return Refusal(
            code=Code.EXPIRY_INVALID,
            field="grant.min_expires_in",
            message=text,
            limit=grant.expires_in,
        )
    if grant.kind == "upload" and grant.min_size > grant.max_size:
        text = "min_size is over max_size"
        return Refusal(
            code=Code.SIZE_INVALID, field="grant.min_size", message=text, limit=grant.max_size
        )
    return None
