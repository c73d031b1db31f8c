"""Decides from the files of an earlier run which rows a run requests, and in which batches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from valetkey.cli.atomic_output import (
    is_being_replaced,
    partial_path,
    reject_existing_output,
    settle_output,
)
from valetkey.cli.bulk.bulk_job import plan_batches
from valetkey.cli.bulk.input_scan import InputScan
from valetkey.cli.journal import (
    Checkpoint,
    FinishedRow,
    Journal,
    count_rows,
    find_changed_option,
    journal_path,
    load_journal,
    read_finished_rows,
)
from valetkey.cli.row_errors import InputError
from valetkey.cli.terminal_text import escape_unprintable


def load_run(out: Path | None, options: Mapping[str, Any]) -> Journal | None:
    """Return the journal of the run to resume; None for a new run, or one without a journal.

    Raises click.UsageError or OSError if the run would destroy the results of an earlier one.
    """
    if out is None or options["force"]:
        return None
    journal, path = load_journal(out), journal_path(out)
    if journal is not None and journal.is_finished:
        settle_output(out, journal)
        journal = load_journal(out)
    is_restart = is_being_replaced(out, journal)
    if is_restart and options["resume"]:
        return None
    if options["resume"]:
        is_lost = journal is None or journal.is_finished
        if is_lost and not out.exists():
            missing = path if journal is None else out
            text = f"there is no interrupted run to resume: {missing} does not exist"
            raise click.UsageError(text)
        return journal
    if is_restart or (journal is not None and not journal.is_finished):
        raise click.UsageError(
            f"{partial_path(out)} belongs to an interrupted run: add --resume to continue it, or "
            "--force to start over, which requests all rows again and charges for them again"
        )
    reject_existing_output(out, journal, is_bulk=True)
    return None


@dataclass(frozen=True)
class RunPlan:
    """The rows of a run that are still to be requested: journal has their batches.

    is_complete is True if no row is left that could be requested.
    """

    scan: InputScan
    out: Path | None
    journal: Journal
    is_complete: bool = False

    def finished_rows(self) -> Iterator[FinishedRow]:
        """Yield the rows of the finished output, whose grants are kept."""
        if self.out is None or self.journal.kept_bytes is None:
            return iter(())
        return read_finished_rows(self.out)


def start_run(
    scan: InputScan, out: Path | None, request: dict[str, Any], new_id: Callable[[], str]
) -> RunPlan:
    """Plan to request all rows of an input."""
    journal = Journal(
        input_sha256=scan.digest,
        total=len(scan.row_groups),
        request=request,
        batch_plan=plan_batches(scan, request["batch_size"], new_id),
        copied_columns=list(scan.copied_names),
    )
    return RunPlan(scan, out, journal)


def resume_run(
    scan: InputScan,
    out: Path,
    journal: Journal,
    request: Mapping[str, Any],
    new_id: Callable[[], str],
) -> RunPlan:
    """Plan to continue an interrupted run, or to request the refused rows of a finished one again.

    Raises click.UsageError if the input, an option or the output is another one.
    """
    changed = find_changed_option(journal.request, request)
    is_input = scan.digest != journal.input_sha256
    if is_input or changed is not None:
        what = "input: it has changed since" if is_input else escape_unprintable(changed or "")
        raise click.UsageError(
            f"{out} was started with a different {what}; "
            "--resume needs the same input and the same options"
        )
    kept_bytes = journal.checkpoint.bytes if journal.is_finished else journal.kept_bytes
    if kept_bytes is not None:
        if not out.exists() or out.stat().st_size != kept_bytes:
            raise click.UsageError(
                f"{out} was changed since it was written: its refused rows cannot be requested "
                "again. Request them with another --out"
            )
        _keep_granted_rows(scan, out, "was changed since it was written")
    if not journal.is_finished:
        _check_plan(scan, out, journal)
        return RunPlan(scan, out, journal)
    values = {
        "batch_plan": plan_batches(scan, journal.batch_plan.batch_size, new_id),
        "checkpoint": Checkpoint(),
        "is_finished": False,
        "kept_bytes": kept_bytes,
    }
    is_complete = not any(group.items.count for group in scan.groups)
    return RunPlan(scan, out, journal.model_copy(update=values), is_complete)


def count_complete_output(scan: InputScan, out: Path, lifetime: int) -> Checkpoint:
    """Return the counts of an output without a journal, in which nothing is refused.

    lifetime is that of rows without one of their own. Raises click.UsageError if it is no such
    file, or not that of this input.
    """
    counts = count_rows(out, scan.lifetimes(lifetime))
    if counts is None or counts.refused:
        raise click.UsageError(
            f"{out} cannot be resumed without {journal_path(out)}, which a run with --csv or "
            "--json leaves if valid rows were refused: request its missing rows from a file "
            "of their own"
        )
    _keep_granted_rows(scan, out, "is complete, but not the output of this input")
    return counts


def _check_plan(scan: InputScan, out: Path, journal: Journal) -> None:
    """Raise click.UsageError if the journal's batches or rows are not those of the input."""
    batch_ids, batch_size, _ = journal.batch_plan
    counts = [-(-group.items.count // batch_size) for group in scan.groups]
    if [len(ids) for ids in batch_ids] != counts or journal.checkpoint.rows > len(scan.row_groups):
        raise click.UsageError(
            f"{journal_path(out)} was changed since it was written: add --force to start over, "
            "which requests all rows again and charges for them again"
        )


def _keep_granted_rows(scan: InputScan, out: Path, problem: str) -> None:
    """Keep the rows that were granted. Raises click.UsageError if the output does not fit."""
    try:
        scan.keep_granted_rows(read_finished_rows(out))
    except InputError as error:
        raise click.UsageError(f"{out} {problem}: {error}") from None
