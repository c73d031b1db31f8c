"""Objects on the command line: BUCKET KEY, or s3://BUCKET/KEY as other S3 tools write it.

BUCKET is the name of a bucket profile. Everything after its slash is the key, taken literally: `?`,
`#`, `%` and spaces have no special meaning.
"""

from typing import NamedTuple

import click

from valetkey.cli.format_options import Command
from valetkey.cli.parameter_types import parse_name

_SCHEME = "s3://"
_META_KEY = f"{__name__}.location"


class _Location(NamedTuple):
    """A bucket profile, and the key and the text of the URI that named it, if one did."""

    bucket: str
    key: str | None = None
    uri: str | None = None


def object_argument(command: Command) -> Command:
    """Add the arguments of one object, `bucket` and `key`, to a command.

    key is None if the command has the option --from, and that names the objects.
    """
    key = click.argument("key", required=False, callback=_resolve_key)
    return _bucket_argument(key(command))


def objects_argument(command: Command) -> Command:
    """Add the arguments of any number of objects, `bucket` and `keys`, to a command."""
    keys = click.argument("keys", nargs=-1, metavar="[KEY]...", callback=_resolve_keys)
    return _bucket_argument(keys(command))


def resolve_key_option(
    context: click.Context, _param: click.Parameter, text: str | None
) -> str | None:
    """Return the key of an option, which may be a URI in the command's bucket profile."""
    if text == "":
        raise click.BadParameter("a key must not be empty")
    return None if text is None else _key_in_bucket(text, _location(context))


def _bucket_argument(command: Command) -> Command:
    # Eager: the callbacks of keys need the bucket profile, also those of options before it.
    return click.argument("bucket", is_eager=True, callback=_parse_bucket)(command)


def _parse_bucket(context: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    if text is None:  # while a shell completes the command
        return None
    location = context.meta[_META_KEY] = _parse_location(text)
    return location.bucket


def _resolve_key(context: click.Context, param: click.Parameter, key: str | None) -> str | None:
    keys = _resolve_keys(context, param, () if key is None else (key,))
    if len(keys) > 1:
        raise click.UsageError(f"this command is for one object: leave out {keys[1]!r}")
    takes_source = any(param.name == "source" for param in context.command.params)
    if len(keys) == 0 and not takes_source and not context.resilient_parsing:
        raise click.MissingParameter(ctx=context, param=param, param_hint="KEY")
    return keys[0] if keys else None


def _resolve_keys(
    context: click.Context, _param: click.Parameter, keys: tuple[str, ...]
) -> tuple[str, ...]:
    location = _location(context)
    resolved = [_key_in_bucket(key, location) for key in keys]
    has_objects = bool(keys) or context.params.get("source") is not None
    if location.key is None and location.uri is not None and not has_objects:
        raise click.UsageError(
            f"{location.uri} names no object: write {_SCHEME}{location.bucket}/KEY"
        )
    if location.key is not None:
        literal = next((key for key in keys if not key.startswith(_SCHEME)), None)
        if literal is not None:
            raise click.UsageError(
                f"{location.uri} names its key already: leave out {literal!r}, or write it as "
                f"{_SCHEME}{location.bucket}/{literal}"
            )
        resolved.insert(0, location.key)
    return tuple(map(_require_utf8, resolved))


def _parse_location(text: str) -> _Location:
    if not text.startswith(_SCHEME):
        return _Location(_parse_profile(text, text))
    name, _, key = text.removeprefix(_SCHEME).partition("/")
    return _Location(_parse_profile(name, text), key if key != "" else None, text)


def _parse_profile(name: str, text: str) -> str:
    try:
        return parse_name(name)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} has no name of a bucket profile: write PROFILE KEY, or {_SCHEME}PROFILE/KEY."
            " A bucket profile is the service's name for a bucket, which may differ from that in "
            f"storage; {error}"
        ) from None


def _key_in_bucket(text: str, location: _Location) -> str:
    if not text.startswith(_SCHEME):
        return _require_utf8(text)
    other = _parse_location(text)
    if other.key is None:
        raise click.UsageError(f"{text} names no object: write {_SCHEME}{other.bucket}/KEY")
    if other.bucket != location.bucket:
        raise click.UsageError(
            f"{text} is in the bucket profile {other.bucket!r}, and this command is for "
            f"{location.bucket!r}: a request has one bucket profile"
        )
    return _require_utf8(other.key)


def _require_utf8(key: str) -> str:
    """Refuse a key that is not valid UTF-8: storage accepts no others."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("a key must be valid UTF-8") from None
    return key


def _location(context: click.Context) -> _Location:
    location: _Location = context.meta.get(_META_KEY, _Location(""))
    return location
