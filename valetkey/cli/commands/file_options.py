"""The options of whatever asks for each row of a file."""

from collections.abc import Callable
from typing import Any

import click

from valetkey.cli.arguments import require_utf8
from valetkey.wire.messages import MAX_BATCH_ITEMS

_USUAL_BATCH = 100_000  # rows: what the service takes at once, where nothing else is declared
_ONLY_WITH_IT = {
    "--format": "row_format",
    "--ignore-columns": "ignore_columns",
    "--strict": "strict",
    "--manifest": "manifest",
}

Command = Callable[..., None]


def _names(_context: click.Context, _param: click.Parameter, text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


_OPTIONS = (
    click.option(
        "--from",
        "source",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True),
        help="Ask for each row of a file; - is stdin.",
    ),
    click.option(
        "--format",
        "row_format",
        type=click.Choice(["lines", "csv", "jsonl"]),
        help="What the file is, where its ending does not say so.",
    ),
    click.option(
        "--ignore-columns",
        metavar="NAME,...",
        default="",
        callback=_names,
        help="Columns of the file that mean nothing here; * is any.",
    ),
    click.option("--strict", is_flag=True, help="Ask for nothing if any row is bad."),
    click.option(
        "--batch-size",
        type=click.IntRange(1, MAX_BATCH_ITEMS),
        default=_USUAL_BATCH,
        show_default=True,
        help="Rows that are admitted, or refused for a quota, together.",
    ),
    click.option(
        "--manifest",
        metavar="KEY",
        callback=require_utf8,
        help="Have all answers written to this object, as gzipped JSON lines: print a link to it.",
    ),
    click.option("--resume", is_flag=True, help="Go on with --out where it was interrupted."),
)


def file_options(command: Command) -> Command:
    """Give a command the options of what asks for each row of a file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def uses_file(keys: object, said: dict[str, Any]) -> bool:
    """Whether it is the rows of a file that are asked for. Raises click.UsageError."""
    source = said["source"]
    if bool(keys) == (source is not None):
        raise click.UsageError("name what is meant: either KEY or --from FILE")
    if said["resume"] and not (source and said["out"]):
        raise click.UsageError("--resume goes with the --from and the --out of before")
    if said["manifest"] and (said["out"] or said["form"] not in {None, "json"}):
        raise click.UsageError("with --manifest there is only a link to print, perhaps as --json")
    for option, name in _ONLY_WITH_IT.items():
        if said[name] and source is None:
            raise click.UsageError(f"{option} goes with --from")
    return source is not None


def reject_with_file(said: dict[str, Any], *names: str) -> None:
    """Refuse options that mean one object, where many are asked for. Raises click.UsageError."""
    for name in names:
        if said[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with one KEY")
