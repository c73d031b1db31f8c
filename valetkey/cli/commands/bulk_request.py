"""Asking for each row of a file, and going on where that was interrupted."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic_core import to_jsonable_python

from valetkey import config
from valetkey.cli import output
from valetkey.cli.bulk import journal
from valetkey.cli.bulk.bulk_job import BatchSlice, BulkJob, batch_slices, plan_batches
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_scan import InputScan, scan_input
from valetkey.cli.bulk.journal import BatchPlan, Journal
from valetkey.cli.bulk.rows import detect_format
from valetkey.cli.commands import base, manifest_output
from valetkey.cli.messages import describe_refusal
from valetkey.cli.progress_bar import stderr_console
from valetkey.client import ExplainMethods, new_id
from valetkey.wire.terms import Kind

_OF_ROWS = ("row_format", "ignore_columns", "batch_size")


def request_rows(kind: Kind, bucket: str, form: str, said: dict[str, Any]) -> int:
    """Ask for all good rows of the file, and write an answer for every row; return the exit code.

    What is bad is said first. Rows that have the same expires_in are asked for together, at most
    batch_size of them at once.
    """
    options = base.grant_options(said, kind)
    with base.report_errors(said):
        request = _request(kind, bucket, options, said) | {"form": output.output_format(form, said)}
        earlier = _earlier(said["out"], resume=said["resume"])
        with _survey(kind, said) as survey, base.open_client(said) as client:
            _tell(survey, strict=said["strict"])
            run = earlier or _new(survey, request, said["batch_size"])
            _check(run, survey, request, said["out"])
            asker = base.select_requester(client, said)
            own = {"manifest": said["manifest"]} if said["manifest"] else {}
            ask = partial(_ask, getattr(asker, f"{kind}_many"), kind, bucket, options | own)
            if isinstance(asker, ExplainMethods):
                return output.write_response(ask(_first(survey, run.cut)), form, said)
            if said["manifest"]:
                return manifest_output.write_manifest_response(ask(_only(survey, run.cut)), said)
            return output.write_job(BulkJob(survey, run.cut, ask), form, said, run)


def _request(
    kind: Kind, bucket: str, options: Mapping[str, Any], said: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be the same when the run is gone on with, as JSON values."""
    who = config.load({"tenant": said["tenant"], "requested_by": said["requested_by"]})
    of_rows = {name: said[name] for name in _OF_ROWS}
    asked = {"kind": kind, "bucket": bucket, **options}
    by = {"tenant": who.tenant, "requested_by": who.requested_by}
    request: dict[str, Any] = to_jsonable_python({**asked, **by, **of_rows})
    return request


def _earlier(out: Path | None, *, resume: bool) -> Journal | None:
    """The run that is to be gone on with, if one is."""
    run = None if out is None else journal.load_journal(out)
    if out is not None and (run is None) == resume:
        where = journal.journal_path(out)
        if resume:
            raise click.UsageError(f"nothing was interrupted: there is no {where}")
        raise click.UsageError(
            f"{where} is there, of a run that was interrupted: add --resume to go on with it, or "
            "remove the file to begin anew, which asks and is charged for all rows again"
        )
    return run


def _new(survey: InputScan, request: dict[str, Any], batch_size: int) -> Journal:
    plan = plan_batches(survey, batch_size, new_id)
    return Journal(input=survey.digest, total=len(survey.plan), request=request, cut=plan)


def _check(run: Journal, survey: InputScan, request: Mapping[str, Any], out: Path | None) -> None:
    different = run.differs(survey.digest, request)
    if different is not None:
        raise click.UsageError(f"{out} was begun with another {different}: --resume needs the same")
    if run.mark.first_end is not None and run.mark.first_end <= datetime.now(UTC):
        ended = f"{run.mark.first_end:%Y-%m-%d %H:%M %Z}"
        click.echo(f"warning: what was written before began to lapse at {ended}", err=True)


@contextmanager
def _survey(kind: Kind, said: Mapping[str, Any]) -> Iterator[InputScan]:
    source, errors = said["source"], stderr_console()
    form = said["row_format"] or detect_format(source)
    is_shown = errors.is_terminal and source != "-"
    with ExitStack() as stack:
        with errors.status(f"reading {source}") if is_shown else nullcontext():
            stream = stack.enter_context(click.open_file(source, "rb"))
            known = columns_for(kind, said["ignore_columns"])
            survey = stack.enter_context(scan_input(stream, form, known))
        if not survey.plan:
            raise click.UsageError(f"{source} names no objects")
        yield survey


def _tell(survey: InputScan, *, strict: bool) -> None:
    """Say which rows are bad. Raises click.UsageError where none may be."""
    bad, total = survey.bad.count, len(survey.plan)
    for refusal in survey.first_bad:
        click.echo(describe_refusal(refusal), err=True)
    if bad > len(survey.first_bad):
        click.echo(f"and {bad - len(survey.first_bad):,} more rows are bad", err=True)
    if bad and strict:
        raise click.UsageError(f"nothing was asked: {bad:,} of {total:,} rows are bad")


def _first(survey: InputScan, plan: BatchPlan) -> BatchSlice:
    if not survey.lives:
        raise click.UsageError("no row is good: there is nothing to explain")
    return next(batch_slices(survey, plan, 0))


def _only(survey: InputScan, plan: BatchPlan) -> BatchSlice:
    if [len(batches) for batches in plan.batches] != [1]:
        raise click.UsageError(
            "a manifest is of one batch: its rows must have the same expires_in, and may be at "
            f"most {plan.batch_size:,}, or what --batch-size says"
        )
    return next(batch_slices(survey, plan, 0))


def _ask(
    many: Callable[..., Any], kind: Kind, bucket: str, options: Mapping[str, Any], part: BatchSlice
) -> Any:
    said = dict(options)
    if part.expires_in is not None:
        said["expires_in"] = part.expires_in
    if kind == "put":
        said["max_size"] = max(part.largest, 1)
    return many(
        bucket,
        part.items,
        total=part.total,
        chunk_size=part.chunk_size,
        batch_id=part.batch,
        first_chunk=part.first_chunk,
        **said,
    )
