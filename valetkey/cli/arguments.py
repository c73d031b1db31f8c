"""Parameter types and options that several commands share."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from valetkey.units import parse_checksum, parse_duration, parse_size
from valetkey.wire.messages import BatchId
from valetkey.wire.terms import Encryption, Name

Command = Callable[..., None]

_BATCH_ID_ADAPTER: TypeAdapter[str] = TypeAdapter(BatchId)
_NAME_ADAPTER: TypeAdapter[str] = TypeAdapter(Name)


class _ParsedType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A parameter type whose parser raises ValueError for an invalid value."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_encryption(text: str) -> Encryption:
    if text == "AES256":
        return Encryption(algorithm="AES256")
    return Encryption(algorithm="aws:kms", key=text)


def _parse_batch_id(text: str) -> str:
    try:
        return _BATCH_ID_ADAPTER.validate_python(text)
    except ValidationError:
        expected = "a batch id is a UUID of version 7: the part of a grant's id before the dot"
        raise ValueError(expected) from None


def _parse_name(text: str) -> str:
    try:
        return _NAME_ADAPTER.validate_python(text)
    except ValidationError:
        expected = "a name has up to 63 characters of a-z, 0-9, - and _, and starts with a-z or 0-9"
        raise ValueError(expected) from None


def _parse_pairs(
    _context: click.Context, _param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    """Return NAME=VALUE pairs as a dict."""
    invalid = next((pair for pair in pairs if "=" not in pair), None)
    if invalid is not None:
        raise click.BadParameter(f"{invalid!r} is not NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _require_writable_folder(
    _context: click.Context, _param: click.Parameter, out: Path | None
) -> Path | None:
    """Refuse an output file that cannot be created, before anything is charged."""
    if out is not None and not os.access(out.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"the folder {out.parent} does not exist or is not writable")
    return out


BATCH_ID = _ParsedType("batch", _parse_batch_id)
CHECKSUM = _ParsedType("checksum", parse_checksum)
DURATION = _ParsedType("duration", parse_duration)
NAME = _ParsedType("name", _parse_name)
SIZE = _ParsedType("size", parse_size)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_REASON = click.option("--reason", metavar="TEXT", help="The reason, which the audit log records.")
_REQUESTED_BY = click.option(
    "--requested-by", metavar="NAME", help="Who requests this; the audit log records it."
)
_TENANT = click.option(
    "--tenant",
    metavar="NAME",
    help="The tenant to act for; by default VALETKEY_TENANT, or the tenant of the key.",
)


def _require_positive(_context: click.Context, _param: click.Parameter, seconds: int) -> int:
    """Refuse a wait of no time, which would end before any response."""
    if seconds < 1:
        raise click.BadParameter("nothing can arrive in 0 s: wait 1s or longer")
    return seconds


def _timeout(text: str) -> Callable[[Command], Command]:
    return click.option(
        "--timeout",
        type=DURATION,
        default="30s",
        show_default=True,
        callback=_require_positive,
        help=text,
    )


_REQUEST_OPTIONS = (
    click.option(
        "--expires-in",
        type=DURATION,
        default="1h",
        show_default=True,
        help="The time until the grant expires: 90s, 15m, 1h or 7d.",
    ),
    click.option(
        "--min-expires-in",
        type=DURATION,
        help="Refuse the grant if it would have to expire sooner than this.",
    ),
    click.option(
        "--callback", metavar="NAME", help="Also send the results to this webhook endpoint."
    ),
    _REASON,
    _REQUESTED_BY,
    _TENANT,
    _timeout("The longest wait for the next response; if given, also for a manifest (else 10m)."),
    click.option(
        "--dry-run", is_flag=True, help="Show the decision rule by rule; grant and charge nothing."
    ),
    click.option(
        "--json", "output_format", flag_value="json", help="Write a JSON object for each item."
    ),
    click.option("--csv", "output_format", flag_value="csv", help="Write a CSV row for each item."),
    click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_require_writable_folder,
        help="Write to a file that only you may read; it appears when it is complete.",
    ),
    click.option(
        "--force", is_flag=True, help="Replace what --out or --manifest names; charge all again."
    ),
)
_JSON = click.option("--json", "output_format", flag_value="json", help="Write JSON.")
_QUERY_OPTIONS = (_TENANT, _timeout("The longest wait for the response."), _JSON)
_CHANGE_OPTIONS = (_REASON, _REQUESTED_BY, *_QUERY_OPTIONS)
_STORAGE_OPTIONS = (
    click.option("--content-type", help="The content type that the object must have."),
    click.option("--acl", help="A canned ACL such as public-read, if the policy allows it."),
    click.option(
        "--meta",
        "metadata",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parse_pairs,
        help="Metadata to store with the object; may be repeated.",
    ),
    click.option(
        "--tag",
        "tags",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parse_pairs,
        help="A tag to store with the object; may be repeated.",
    ),
    click.option(
        "--storage-class",
        metavar="NAME",
        help="The object's storage class, such as STANDARD_IA or GLACIER_IR.",
    ),
    click.option(
        "--encryption",
        type=_ParsedType("encryption", _parse_encryption),
        metavar="AES256|ARN",
        help="Encrypt the object with S3's own key (AES256), or with the KMS key of this ARN.",
    ),
)
_SNIPPET_OPTIONS = {
    "curl": click.option(
        "--curl", "output_format", flag_value="curl", help="Print a curl command."
    ),
    "html": click.option(
        "--html", "output_format", flag_value="html", help="Print a page for a browser."
    ),
    "js": click.option(
        "--js", "output_format", flag_value="js", help="Print JavaScript that uses fetch."
    ),
}


def request_options(command: Command) -> Command:
    """Add the options that all requests for grants have."""
    return _add_options(command, _REQUEST_OPTIONS)


def read_only_options(command: Command) -> Command:
    """Add the options of a command that only reads."""
    return _add_options(command, _QUERY_OPTIONS)


def cancel_options(command: Command) -> Command:
    """Add the options of a command that changes an existing batch."""
    return _add_options(command, _CHANGE_OPTIONS)


def object_options(command: Command) -> Command:
    """Add the options of a command whose grants store an object."""
    return _add_options(command, _STORAGE_OPTIONS)


def snippet_options(*names: str) -> Callable[[Command], Command]:
    """Return a decorator that adds options to print a grant as a ready-to-use snippet."""
    return lambda command: _add_options(command, [_SNIPPET_OPTIONS[name] for name in names])


def _add_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def require_utf8(
    _context: click.Context, _param: click.Parameter, keys: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Refuse keys that are not valid UTF-8: storage accepts no others."""
    try:
        "".join(keys or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("a key must be valid UTF-8") from None
    return keys
