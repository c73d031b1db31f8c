"""What the commands of the producer's command line have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from valetkey.sizes import parse_duration, parse_size


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _Parsed("duration", parse_duration)
SIZE = _Parsed("size", parse_size)

_LIFE = "How long the grant lives: 90s, 15m, 1h or 7d."
_COMMON = (
    click.option("--expires-in", type=DURATION, default="1h", show_default=True, help=_LIFE),
    click.option("--min-expires-in", type=DURATION, help="The shortest life that is of use."),
    click.option("--callback", metavar="NAME", help="A webhook endpoint to tell as well."),
    click.option("--reason", metavar="TEXT", help="Why; the audit log keeps it."),
    click.option("--requested-by", metavar="NAME", help="Who asks; the audit log keeps it."),
    click.option("--tenant", metavar="NAME", help="For whom; by default VALETKEY_TENANT."),
    click.option(
        "--timeout",
        type=DURATION,
        default="30s",
        show_default=True,
        help="How long to wait for the next answer.",
    ),
    click.option("--json", "form", flag_value="json", help="Write a JSON object for each item."),
    click.option("--csv", "form", flag_value="csv", help="Write a CSV row for each item."),
    click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write to a file that only you may read; it appears when it is complete.",
    ),
)


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all requests have."""
    for option in reversed(_COMMON):
        command = option(command)
    return command


def in_utf8(
    _context: click.Context, _param: click.Parameter, keys: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """Refuse keys whose bytes are not UTF-8: storage knows no others."""
    try:
        "".join(keys).encode()
    except UnicodeEncodeError:
        raise click.BadParameter("a key is UTF-8") from None
    return keys


def metadata(
    _context: click.Context, _param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    """Read NAME=VALUE pairs."""
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
