"""Protects the grants in an existing output file, which are charged already."""

from datetime import UTC, datetime
from pathlib import Path

import click

from valetkey.cli.bulk.finished_output import GrantCounts, count_grants
from valetkey.cli.bulk.journal import Journal, journal_path
from valetkey.cli.results.atomic_output import check_file_type, partial_path, remove_old_journal
from valetkey.cli.results.summary import describe_counts

_FORCE = "--force to replace it, which requests and charges everything again"


def reject_existing_output(out: Path, journal: Journal | None = None, *, is_bulk: bool) -> None:
    """Raise click.UsageError if a file would be lost. An empty file is no loss.

    journal is that of the finished output, if it has one. Raises OSError, and InputError if there
    is another journal that cannot be read.
    """
    check_file_type(out)
    partial = partial_path(out)
    if journal is None and not _has_content(out) and not remove_old_journal(out):
        raise click.UsageError(
            f"{journal_path(out)} belongs to an interrupted run with --from: continue it with "
            f"--resume, name another --out, or add {_FORCE}"
        )
    if journal is None and _has_content(partial):
        raise click.UsageError(
            f"{partial} has the rows of a command that did not end, which are charged: "
            f"move it away, or add {_FORCE}"
        )
    if not _has_content(out):
        return
    written = datetime.fromtimestamp(out.stat().st_mtime, UTC)
    counts = count_grants(out)
    text = f"{out} exists, written {written:%Y-%m-%d %H:%M} UTC{_describe_counts(counts)}"
    ways = _FORCE
    if journal is not None:
        refused = journal.checkpoint.refused
        ways = f"--resume to request the {refused:,} refused rows alone, or {_FORCE}"
    elif is_bulk and counts is not None and not counts.refused:
        ways = f"--resume to check that it is complete, or {_FORCE}"
    raise click.UsageError(f"{text}; nothing was requested: add {ways}")


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _describe_counts(counts: GrantCounts | None) -> str:
    if counts is None:
        return ""
    return f", with {describe_counts(counts.granted, counts.refused)}"
