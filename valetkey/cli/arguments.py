"""What the commands of the producer's command line have in common."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from valetkey.units import parse_checksum, parse_duration, parse_size
from valetkey.wire.messages import BatchId
from valetkey.wire.terms import Encryption, Name

_BATCH: TypeAdapter[str] = TypeAdapter(BatchId)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _encryption(text: str) -> Encryption:
    if text == "AES256":
        return Encryption(algorithm="AES256")
    return Encryption(algorithm="aws:kms", key=text)


def _batch(text: str) -> str:
    try:
        return _BATCH.validate_python(text)
    except ValidationError:
        expected = "a batch's id is a UUID of version 7: in a grant's id it stands before the dot"
        raise ValueError(expected) from None


def _name(text: str) -> str:
    try:
        return _NAME.validate_python(text)
    except ValidationError:
        expected = "a name is up to 63 of a-z, 0-9, - and _, and begins with a letter or digit"
        raise ValueError(expected) from None


def _pairs(
    _context: click.Context, _param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    """Read NAME=VALUE pairs."""
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _writable(_context: click.Context, _param: click.Parameter, out: Path | None) -> Path | None:
    """Refuse a file for which there is no room in its folder, before anything is charged."""
    if out is not None and not os.access(out.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"there is no folder {out.parent} to write to")
    return out


BATCH = _Parsed("batch", _batch)
CHECKSUM = _Parsed("checksum", parse_checksum)
DURATION = _Parsed("duration", parse_duration)
NAME = _Parsed("name", _name)
SIZE = _Parsed("size", parse_size)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_LIFE = "How long the grant lives: 90s, 15m, 1h or 7d."
_REASON = click.option("--reason", metavar="TEXT", help="Why; the audit log keeps it.")
_REQUESTED_BY = click.option(
    "--requested-by", metavar="NAME", help="Who asks; the audit log keeps it."
)
_TENANT = click.option(
    "--tenant", metavar="NAME", help="For whom; by default VALETKEY_TENANT, or the key's own."
)
_TIMEOUT = click.option(
    "--timeout",
    type=DURATION,
    default="30s",
    show_default=True,
    help="How long to wait for the next answer.",
)
_COMMON = (
    click.option("--expires-in", type=DURATION, default="1h", show_default=True, help=_LIFE),
    click.option("--min-expires-in", type=DURATION, help="The shortest life that is of use."),
    click.option("--callback", metavar="NAME", help="A webhook endpoint to tell as well."),
    _REASON,
    _REQUESTED_BY,
    _TENANT,
    _TIMEOUT,
    click.option("--dry-run", is_flag=True, help="Show what would be decided, rule by rule."),
    click.option("--json", "form", flag_value="json", help="Write a JSON object for each item."),
    click.option("--csv", "form", flag_value="csv", help="Write a CSV row for each item."),
    click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_writable,
        help="Write to a file that only you may read; it appears when it is complete.",
    ),
)
_JSON = click.option("--json", "form", flag_value="json", help="Write JSON.")
_TELLING = (_TENANT, _TIMEOUT, _JSON)
_CHANGING = (_REASON, _REQUESTED_BY, *_TELLING)
_STORING = (
    click.option("--content-type", help="The content type that the object must have."),
    click.option("--acl", help="A canned ACL such as public-read, where the policy allows it."),
    click.option(
        "--meta",
        "metadata",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_pairs,
        help="Metadata to store with the object.",
    ),
    click.option(
        "--tag",
        "tags",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_pairs,
        help="A tag to store with the object.",
    ),
    click.option("--storage-class", metavar="NAME", help="Such as STANDARD_IA or GLACIER_IR."),
    click.option(
        "--encryption",
        type=_Parsed("encryption", _encryption),
        metavar="AES256|ARN",
        help="Encrypt with S3's own key, or with this one of KMS.",
    ),
)
_SNIPPETS = {
    "curl": click.option("--curl", "form", flag_value="curl", help="Print a curl command."),
    "html": click.option("--html", "form", flag_value="html", help="Print a page for a browser."),
    "js": click.option("--js", "form", flag_value="js", help="Print JavaScript that uses fetch."),
}

Command = Callable[..., None]


def request_options(command: Command) -> Command:
    """Give a command the options that all requests have."""
    return _with(command, _COMMON)


def query_options(command: Command) -> Command:
    """Give a command the options of what is only asked about."""
    return _with(command, _TELLING)


def change_options(command: Command) -> Command:
    """Give a command the options of what changes something that was granted."""
    return _with(command, _CHANGING)


def storage_options(command: Command) -> Command:
    """Give a command the options of whatever stores an object."""
    return _with(command, _STORING)


def snippet_options(*names: str) -> Callable[[Command], Command]:
    """Give a command options to print a grant as something ready to use."""
    return lambda command: _with(command, [_SNIPPETS[name] for name in names])


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def require_utf8(
    _context: click.Context, _param: click.Parameter, keys: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Refuse keys whose bytes are not UTF-8: storage knows no others."""
    try:
        "".join(keys or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("a key is UTF-8") from None
    return keys
