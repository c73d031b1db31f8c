"""Requests a grant for each row of a file, and resumes an interrupted run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic_core import to_jsonable_python

from valetkey.cli import output
from valetkey.cli.bulk.bulk_job import BatchRequest, BulkJob, plan_batches, remaining_batches
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_scan import InputScan, scan_input
from valetkey.cli.bulk.journal import BulkPlan, Journal, journal_path, load_journal
from valetkey.cli.bulk.rows import detect_format
from valetkey.cli.commands import base, manifest_output
from valetkey.cli.descriptions import describe_refusal
from valetkey.cli.progress_bar import stderr_console
from valetkey.client import Client, ExplainMethods, new_id
from valetkey.config import load_config
from valetkey.errors import NoAnswer, Refused
from valetkey.wire.messages import VERSION
from valetkey.wire.terms import Kind

SERVICE_TIMEOUT = 5.0
"""The time in seconds to wait for the description of the service, which only saves a refusal."""

_INPUT_OPTIONS = ("row_format", "ignore_columns", "batch_size")


def request_rows(kind: Kind, bucket: str, default_format: str, options: Mapping[str, Any]) -> int:
    """Request a grant for each valid row of the file, and write a result for every row.

    Invalid rows are reported first. Rows with the same expires_in are requested together, at most
    batch_size of them in one batch. Returns the exit code.
    """
    with base.report_errors(options):
        request = _request_identity(kind, bucket, default_format, options)
        journal = _load_journal(options["out"], is_resumed=options["resume"])
        with _scan_source(kind, options) as scan, base.open_client(options) as client:
            _report_invalid_rows(scan, is_strict=options["strict"])
            if journal is None:
                journal = _new_journal(scan, request, options["batch_size"])
            _check_journal(journal, scan, request, options["out"])
            plan = journal.batch_plan
            requester = base.select_request_methods(client, options)
            request_batch = _batch_requester(requester, kind, bucket, options)
            if isinstance(requester, ExplainMethods):
                response = request_batch(_first_slice(scan, plan))
                return output.write_response(response, default_format, options)
            only_slice = _only_slice(scan, plan) if options["manifest"] is not None else None
            _check_service(client, kind, scan, plan, options["timeout"])
            if only_slice is not None:
                batch = request_batch(only_slice)
                return manifest_output.print_manifest_link(batch, options)
            job = BulkJob(scan, plan, request_batch)
            return output.write_results(job, default_format, options, journal)


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


def _load_journal(out: Path | None, *, is_resumed: bool) -> Journal | None:
    """Return the journal of the run to resume; None for a new run."""
    journal = None if out is None else load_journal(out)
    if out is not None and (journal is None) == is_resumed:
        path = journal_path(out)
        if is_resumed:
            raise click.UsageError(f"there is no interrupted run to resume: {path} does not exist")
        raise click.UsageError(
            f"{path} belongs to an interrupted run: add --resume to continue it, or remove the "
            "file to start over, which requests all rows again and charges for them again"
        )
    return journal


@contextmanager
def _scan_source(kind: Kind, options: Mapping[str, Any]) -> Iterator[InputScan]:
    source, errors = options["source"], stderr_console()
    input_format = options["row_format"] or detect_format(source)
    shows_status = errors.is_terminal and source != "-"
    with ExitStack() as stack:
        with errors.status(f"reading {source}") if shows_status else nullcontext():
            stream = stack.enter_context(click.open_file(source, "rb"))
            columns = columns_for(kind, options["ignore_columns"])
            scan = stack.enter_context(scan_input(stream, input_format, columns))
        if not scan.row_groups:
            raise click.UsageError(f"{source} has no rows: there is nothing to request")
        yield scan


def _report_invalid_rows(scan: InputScan, *, is_strict: bool) -> None:
    """Report the invalid rows. Raises click.UsageError if there are any and is_strict is set."""
    invalid, shown = scan.invalid_rows.count, len(scan.first_invalid_rows)
    for refusal in scan.first_invalid_rows:
        click.echo(describe_refusal(refusal), err=True)
    if invalid > shown:
        click.echo(f"and {invalid - shown:,} more rows are invalid", err=True)
    if invalid and is_strict:
        total = len(scan.row_groups)
        raise click.UsageError(
            f"nothing was requested: {invalid:,} of {total:,} rows are invalid, and --strict is set"
        )


def _new_journal(scan: InputScan, request: dict[str, Any], batch_size: int) -> Journal:
    return Journal(
        input_sha256=scan.digest,
        total=len(scan.row_groups),
        request=request,
        batch_plan=plan_batches(scan, batch_size, new_id),
    )


def _check_journal(
    journal: Journal, scan: InputScan, request: Mapping[str, Any], out: Path | None
) -> None:
    difference = journal.find_difference(scan.digest, request)
    if difference is not None:
        raise click.UsageError(
            f"{out} was started with a different {difference}: "
            "--resume needs the same input and the same options"
        )
    first_expiry = journal.checkpoint.first_expiry
    if first_expiry is not None and first_expiry <= datetime.now(UTC):
        expiry = f"{first_expiry:%Y-%m-%d %H:%M %Z}"
        text = f"warning: grants that were written earlier began to expire at {expiry}"
        click.echo(text, err=True)


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
