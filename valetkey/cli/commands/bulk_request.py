"""Requests a grant for each row of a file, and resumes an interrupted run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic_core import to_jsonable_python

from valetkey.cli.bulk import resume
from valetkey.cli.bulk.bulk_job import BatchRequest, BulkJob, remaining_batches
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_scan import InputScan, scan_input
from valetkey.cli.bulk.journal import BulkPlan, Journal, journal_path
from valetkey.cli.bulk.row_errors import InputError
from valetkey.cli.bulk.rows import detect_format
from valetkey.cli.commands import base, manifest_output
from valetkey.cli.descriptions import describe_row_refusal, name_source
from valetkey.cli.results import output
from valetkey.cli.results.consoles import stderr_console
from valetkey.client import Client, ExplainMethods, new_id
from valetkey.config import load_config
from valetkey.errors import NoAnswer, Refused
from valetkey.wire.messages import VERSION
from valetkey.wire.terms import Kind

SERVICE_TIMEOUT = 5.0
"""The time in seconds to wait for the description of the service, which only saves a refusal."""

_INPUT_OPTIONS = ("row_format", "ignore_columns", "copy_columns", "batch_size")


def request_rows(kind: Kind, bucket: str, default_format: str, options: Mapping[str, Any]) -> int:
    """Request a grant for each valid row of the file, and write a result for every row.

    Invalid rows are reported first. Rows with the same expires_in are requested together, at most
    batch_size of them in one batch. Returns the exit code.
    """
    with base.report_errors(options):
        request = _request_identity(kind, bucket, default_format, options)
        journal = resume.load_run(options["out"], options)
        with _scan_source(kind, options) as scan, base.open_client(options) as client:
            _report_invalid_rows(scan, options)
            run = _plan_run(scan, journal, request, options)
            if run is None or run.is_complete:
                return 0 if run is None else 1
            plan = run.journal.batch_plan
            requester = base.select_request_methods(client, options)
            request_batch = _batch_requester(requester, kind, bucket, options)
            if isinstance(requester, ExplainMethods):
                response = request_batch(_first_slice(scan, plan))
                return output.write_response(response, default_format, options)
            only_slice = _only_slice(scan, plan) if options["manifest"] is not None else None
            _check_service(client, kind, scan, plan, options["timeout"])
            if only_slice is not None:
                manifest_output.reject_existing_manifest(client, bucket, options)
                batch = request_batch(only_slice)
                return manifest_output.print_manifest_link(batch, options)
            job = BulkJob(scan, plan, request_batch, run.finished_rows)
            return _write_results(job, run, default_format, options)


def _request_identity(
    kind: Kind, bucket: str, default_format: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values, as JSON, that must be the same when the run is resumed."""
    grant_options = base.extract_grant_options(options, kind)
    client_config = load_config(
        {"tenant": options["tenant"], "requested_by": options["requested_by"]}
    )
    identity: dict[str, Any] = {"kind": kind, "bucket": bucket, **grant_options}
    identity |= {"tenant": client_config.tenant, "requested_by": client_config.requested_by}
    identity |= {name: options[name] for name in _INPUT_OPTIONS}
    identity = to_jsonable_python(identity)
    return identity | {"output_format": output.resolve_format(default_format, options)}


@contextmanager
def _scan_source(kind: Kind, options: Mapping[str, Any]) -> Iterator[InputScan]:
    source, errors = options["source"], stderr_console()
    input_format = options["row_format"] or detect_format(source)
    shows_status = errors.is_terminal and source != "-"
    with ExitStack() as stack:
        with errors.status(f"reading {source}") if shows_status else nullcontext():
            stream = stack.enter_context(click.open_file(source, "rb"))
            columns = columns_for(kind, options["ignore_columns"], options["copy_columns"])
            try:
                scan = stack.enter_context(scan_input(stream, input_format, columns))
            except InputError as error:
                raise click.UsageError(f"{name_source(source)}, {error}") from None
        if not scan.row_groups:
            text = f"{name_source(source)} has no rows: there is nothing to request"
            raise click.UsageError(text)
        yield scan


def _report_invalid_rows(scan: InputScan, options: Mapping[str, Any]) -> None:
    """Report the invalid rows. Raises click.UsageError if there are any and --strict is set."""
    invalid, shown = scan.invalid_rows.count, len(scan.first_invalid_rows)
    for refusal in scan.first_invalid_rows:
        click.echo(describe_row_refusal(refusal, options["source"]), err=True)
    if invalid > shown:
        click.echo(f"and {invalid - shown:,} more rows are invalid", err=True)
    if invalid and options["strict"]:
        total = len(scan.row_groups)
        raise click.UsageError(
            f"nothing was requested: {invalid:,} of {total:,} rows are invalid, and --strict is set"
        )


def _plan_run(
    scan: InputScan, journal: Journal | None, request: dict[str, Any], options: Mapping[str, Any]
) -> resume.RunPlan | None:
    """Return the rows to request; None if an earlier run was granted them all, which is printed."""
    out: Path | None = options["out"]
    if out is None or not options["resume"]:
        return resume.start_run(scan, out, request, new_id)
    if journal is None:
        click.echo(resume.describe_complete_output(scan, out), err=True)
        return None
    run = resume.resume_run(scan, out, journal, request, new_id)
    if warning := resume.describe_expiry(journal.checkpoint.first_expiry):
        click.echo(warning, err=True)
    if run.is_complete:
        invalid = scan.invalid_rows.count
        text = f"{out}: all {invalid:,} refused rows are invalid, nothing was requested: "
        click.echo(text + "correct them in a file of their own", err=True)
    return run


def _write_results(
    job: BulkJob, run: resume.RunPlan, default_format: str, options: Mapping[str, Any]
) -> int:
    """Write all results, and explain how to request refused rows again. Returns the exit code."""
    out: Path | None = options["out"]
    try:
        exit_code = output.write_results(job, default_format, options, run.journal)
    except BrokenPipeError:
        text = "the reader of stdout closed it: the rows requested so far are charged; with --out, "
        click.echo(text + "no result is lost", err=True)
        raise
    has_refused = job.refused > run.scan.invalid_rows.count
    if out is not None and has_refused and journal_path(out).exists():
        text = "to request the refused rows again: the same command with --resume, which needs "
        click.echo(text + str(journal_path(out)), err=True)
    return exit_code


def _check_service(
    client: Client, kind: Kind, scan: InputScan, plan: BulkPlan, timeout: float
) -> None:
    """Raise Refused if the service is of a release that cannot read the batches of the plan.

    If the service does not answer soon, the batches are sent all the same, and wait in the queue.
    """
    try:
        service = client.service(min(timeout, SERVICE_TIMEOUT))
    except (NoAnswer, Refused):  # the service refuses the first batch as well
        return
    batch_items = max((min(group.items.count, plan.batch_size) for group in scan.groups), default=0)
    refusal = service.batch_refusal(VERSION, kind, plan.chunk_size, batch_items)
    if refusal is not None:
        raise Refused(refusal)


def _batch_requester(
    requester: Any, kind: Kind, bucket: str, options: Mapping[str, Any]
) -> Callable[[BatchRequest], Any]:
    grant_options = base.extract_grant_options(options, kind)
    if options["manifest"] is not None:
        grant_options["manifest"] = options["manifest"]
    return partial(_request_batch, getattr(requester, f"{kind}_many"), kind, bucket, grant_options)


def _request_batch(
    request_many: Callable[..., Any],
    kind: Kind,
    bucket: str,
    grant_options: Mapping[str, Any],
    batch_slice: BatchRequest,
) -> Any:
    options = dict(grant_options)
    if batch_slice.expires_in is not None:
        options["expires_in"] = batch_slice.expires_in
    if kind == "put":
        options["max_size"] = max(batch_slice.largest_size, 1)
    return request_many(
        bucket,
        batch_slice.items,
        total=batch_slice.total,
        chunk_size=batch_slice.chunk_size,
        batch_id=batch_slice.batch_id,
        first_chunk=batch_slice.first_chunk,
        **options,
    )


def _first_slice(scan: InputScan, plan: BulkPlan) -> BatchRequest:
    if not scan.groups:
        raise click.UsageError("no row is valid: there is nothing to explain")
    return next(remaining_batches(scan, plan, 0))


def _only_slice(scan: InputScan, plan: BulkPlan) -> BatchRequest:
    if [len(batch_ids) for batch_ids in plan.batch_ids] != [1]:
        raise click.UsageError(
            f"a manifest covers exactly one batch: the file needs from 1 to {plan.batch_size:,} "
            "valid rows (see --batch-size), all with the same expires_in"
        )
    return next(remaining_batches(scan, plan, 0))
