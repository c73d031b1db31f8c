"""Options of the commands that request a grant for each row of a file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from valetkey.cli.bulk.journal import journal_path
from valetkey.cli.locations import resolve_key_option
from valetkey.cli.results.atomic_output import partial_path
from valetkey.wire.messages import MAX_BATCH_ITEMS

_DEFAULT_BATCH_SIZE = 100_000  # rows: the service's limit unless the tenant config sets another
_FILE_ONLY_OPTIONS = {
    "--format": "row_format",
    "--ignore-columns": "ignore_columns",
    "--copy-columns": "copy_columns",
    "--strict": "strict",
    "--manifest": "manifest",
}

Command = Callable[..., None]


def _parse_names(_context: click.Context, _param: click.Parameter, text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


_OPTIONS = (
    click.option(
        "--from",
        "source",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True),
        help="Request a grant for each row of this file; - is stdin.",
    ),
    click.option(
        "--format",
        "row_format",
        type=click.Choice(["lines", "csv", "jsonl"]),
        help="The format of the file; by default its ending decides (.csv, .jsonl or .ndjson, "
        "otherwise lines).",
    ),
    click.option(
        "--ignore-columns",
        metavar="NAME,...",
        default="",
        callback=_parse_names,
        help="Columns of the file to leave out of the output; * leaves out all unknown ones.",
    ),
    click.option(
        "--copy-columns",
        metavar="NAME,...",
        default="",
        callback=_parse_names,
        help="Columns of the file to copy to the output although their name resembles an option; "
        "* copies all unknown ones. Other unknown columns are copied without this.",
    ),
    click.option("--strict", is_flag=True, help="Request nothing if any row is invalid."),
    click.option(
        "--batch-size",
        type=click.IntRange(1, MAX_BATCH_ITEMS),
        default=_DEFAULT_BATCH_SIZE,
        show_default=True,
        help="The largest number of rows in a batch, which a quota admits or refuses as a whole.",
    ),
    click.option(
        "--manifest",
        metavar="KEY",
        callback=resolve_key_option,
        help="Let the service write all results to this object, as gzipped JSON lines, and print "
        "a link to it.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Continue the interrupted run that writes to --out, or request only the rows again "
        "that a finished one has refused.",
    ),
)


def bulk_options(command: Command) -> Command:
    """Add the options of a command that requests a grant for each row of a file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def is_bulk(keys: object, options: Mapping[str, Any]) -> bool:
    """Return True if the rows of a file are requested.

    Raises click.UsageError for options that exclude each other.
    """
    source = options["source"]
    if (keys not in {None, ()}) == (source is not None):
        raise click.UsageError("name the objects: give KEY or --from FILE, and not both")
    if options["resume"] and not (source and options["out"]):
        raise click.UsageError("--resume needs the --from and the --out of the interrupted run")
    if options["resume"] and options["force"]:
        raise click.UsageError("--resume keeps what --out has, --force replaces it: choose one")
    if source is not None and options["out"] and _is_same_file(source, options["out"]):
        raise click.UsageError("--out is the file of --from: choose another file name")
    if options["manifest"] is not None and (
        options["out"] or options["output_format"] not in {None, "json"}
    ):
        raise click.UsageError(
            "--manifest prints only a link: use it without --out, and with no format but --json"
        )
    if source is not None and options["output_format"] in {"html", "js"}:
        option = f"--{options['output_format']}"
        raise click.UsageError(f"{option} is for a single KEY: with --from, use --json or --csv")
    for option, name in _FILE_ONLY_OPTIONS.items():
        if _is_set(options[name]) and source is None:
            raise click.UsageError(f"{option} needs --from")
    return source is not None


def _is_same_file(source: str, out: Path) -> bool:
    paths = (out, partial_path(out), journal_path(out))
    return source != "-" and any(path.exists() and path.samefile(source) for path in paths)


def _is_set(value: object) -> bool:
    return value is not None and value is not False and value != []


def reject_single_options(options: Mapping[str, Any], *names: str) -> None:
    """Raise click.UsageError if one of these options is used with --from."""
    for name in names:
        if _is_set(options[name]):
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} applies to a single KEY: leave it out with --from")
