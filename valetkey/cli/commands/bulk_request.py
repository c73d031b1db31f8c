"""Requests a grant for each row of a file, resumes an interrupted run, waits for a manifest."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
from pydantic_core import to_jsonable_python

from valetkey.cli import result_output
from valetkey.cli.atomic_output import is_being_replaced, partial_path, replaced_output
from valetkey.cli.bulk import resume
from valetkey.cli.bulk.bulk_job import BatchRequest, BulkJob, remaining_batches
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_rows import detect_format
from valetkey.cli.bulk.input_scan import InputScan, scan_input
from valetkey.cli.commands import command_base
from valetkey.cli.descriptions import (
    describe_counts,
    describe_row_refusal,
    describe_seconds,
    name_source,
)
from valetkey.cli.format_options import add_options
from valetkey.cli.journal import BulkPlan, Journal, journal_path
from valetkey.cli.locations import resolve_key_option
from valetkey.cli.row_errors import InputError
from valetkey.cli.terminal_text import next_command, same_command, stderr_console
from valetkey.client import Client
from valetkey.config import load_config
from valetkey.errors import BrokerUnreachable, NoAnswer, Refused
from valetkey.handles import BatchHandle
from valetkey.multipart_upload import object_exists
from valetkey.request_methods import ExplainMethods
from valetkey.session import new_id
from valetkey.waits import MANIFEST_TIMEOUT, Manifest
from valetkey.wire.messages import MAX_BATCH_ITEMS, VERSION
from valetkey.wire.terms import Kind

_DEFAULT_BATCH_SIZE = 100_000  # rows: the service's limit unless the tenant config sets another
_FILE_ONLY_OPTIONS = {
    "--format": "row_format",
    "--ignore-columns": "ignore_columns",
    "--copy-columns": "copy_columns",
    "--strict": "strict",
    "--manifest": "manifest",
}


SERVICE_TIMEOUT = 5.0
"""The time in seconds to wait for the description of the service, which only saves a refusal."""

_INPUT_OPTIONS = ("row_format", "ignore_columns", "copy_columns", "batch_size")


def _parse_names(_context: click.Context, _param: click.Parameter, text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


bulk_options = add_options(
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
"""The options of a command that requests a grant for each row of a file."""


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


def print_manifest_link(batch: BatchHandle, options: Mapping[str, Any]) -> int:
    """Wait for the manifest, print a link to it, and return the exit code.

    Without --timeout, the service has MANIFEST_TIMEOUT to write it.

    A summary with its counts, size and digest goes to stderr; with --json, everything is also one
    object on stdout.
    Raises as BatchHandle.manifest does.
    """
    errors, start = stderr_console(), time.monotonic()
    status = f"waiting for {batch.total:,} rows to be written to {options['manifest']}"
    with _continue_hint(batch), errors.status(status) if errors.is_terminal else nullcontext():
        for _ in batch.results(options["timeout"]):
            pass
        manifest = batch.manifest(command_base.select_timeout(options, MANIFEST_TIMEOUT))
    if options["output_format"] == "json":
        click.echo(json.dumps(_manifest_values(batch.id, manifest)))
    else:
        click.echo(manifest.grant.url)
    click.echo(_describe_manifest(manifest, time.monotonic() - start), err=True)
    result_output.print_quota_warnings(batch.quotas)
    return 1 if manifest.refused else 0


def reject_existing_manifest(client: Client, bucket: str, options: Mapping[str, Any]) -> None:
    """Raise click.UsageError if the manifest would replace an object, unless --force is set.

    The check needs one grant, to send a HEAD, which is charged. Without an answer of storage, the
    manifest is requested all the same. Raises NoAnswer and BrokerUnreachable.
    """
    key = options["manifest"]
    if options["force"]:
        return
    try:
        grant = client.download(bucket, key, method="HEAD", expires_in=60).result(
            options["timeout"]
        )
    except Refused:  # what the policy refuses here, it may also refuse for the manifest
        return
    if object_exists(grant.url):
        raise click.UsageError(
            f"the object {key!r} exists, and may be a manifest with grants that are charged; no "
            "row was requested: choose another key, or add --force to replace it"
        )


@contextmanager
def _continue_hint(batch: BatchHandle) -> Iterator[None]:
    """Print how to continue with a batch, charged already, if the wait for it ends early."""
    try:
        yield
    except (KeyboardInterrupt, NoAnswer, BrokerUnreachable):
        if batch.remaining:  # chunks that were not sent never arrive: waiting would not help
            cancel = next_command("cancel", batch.id)
            text = f"to have only the results so far written: {cancel}"
        else:
            text = f"to keep waiting: Client().batch({batch.id!r}).manifest()"
        click.echo(text, err=True)
        raise


def _describe_manifest(manifest: Manifest, seconds: float) -> str:
    content = f"{manifest.bytes:,} bytes, sha256 {manifest.sha256}"
    counts = describe_counts(manifest.issued, manifest.refused)
    return f"{manifest.key!r}: {counts}, in {describe_seconds(seconds)}; {content}"


def _manifest_values(batch_id: str, manifest: Manifest) -> dict[str, Any]:
    values = {name: value for name, value in manifest._asdict().items() if name != "grant"}
    grant = to_jsonable_python(manifest.grant)
    return {"batch": batch_id, **values, "url": grant["url"], "expires_at": grant["expires_at"]}


def request_rows(kind: Kind, bucket: str, default_format: str, options: Mapping[str, Any]) -> int:
    """Request a grant for each valid row of the file, and write a result for every row.

    Invalid rows are reported first. Rows with the same expires_in are requested together, at most
    batch_size of them in one batch. Returns the exit code.
    """
    out: Path | None = options["out"]
    replaced = replaced_output(out) if out and options["force"] else nullcontext()
    with command_base.report_errors(options), replaced:
        request = _request_identity(kind, bucket, default_format, options)
        journal = resume.load_run(options["out"], options)
        with _scan_source(kind, options) as scan, command_base.open_client(options) as client:
            _report_invalid_rows(scan, options)
            lifetimes = (group.expires_in or options["expires_in"] for group in scan.groups)
            command_base.check_min_left(options, lifetimes)
            run = _plan_run(scan, journal, request, options)
            if isinstance(run, int):
                return run
            plan = run.journal.batch_plan
            requester = command_base.select_request_methods(client, options)
            request_batch = _batch_requester(requester, kind, bucket, options)
            if isinstance(requester, ExplainMethods):
                response = request_batch(_first_slice(scan, plan))
                return result_output.write_response(response, default_format, options)
            only_slice = _only_slice(scan, plan) if options["manifest"] is not None else None
            _check_service(client, kind, scan, plan, options["timeout"])
            if only_slice is not None:
                reject_existing_manifest(client, bucket, options)
                batch = request_batch(only_slice)
                return print_manifest_link(batch, options)
            job = BulkJob(scan, plan, request_batch, run.finished_rows)
            return _write_results(job, run, default_format, options)


def _request_identity(
    kind: Kind, bucket: str, default_format: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values, as JSON, that must be the same when the run is resumed."""
    grant_options = command_base.extract_grant_options(options, kind)
    client_config = load_config(
        {"tenant": options["tenant"], "requested_by": options["requested_by"]}
    )
    identity: dict[str, Any] = {"kind": kind, "bucket": bucket, **grant_options}
    identity |= {"tenant": client_config.tenant, "requested_by": client_config.requested_by}
    identity |= {name: options[name] for name in _INPUT_OPTIONS}
    identity = to_jsonable_python(identity)
    return identity | {"output_format": result_output.resolve_format(default_format, options)}


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
) -> resume.RunPlan | int:
    """Return the rows to request; the exit code if there are none, which is printed."""
    out: Path | None = options["out"]
    if out is None or not options["resume"] or (not journal and is_being_replaced(out, journal)):
        return resume.start_run(scan, out, request, new_id)
    if journal is None:
        counts = resume.count_complete_output(scan, out, options["expires_in"])
        text = f"{out} is complete: {counts.granted:,} granted, none refused; nothing was requested"
        click.echo(text, err=True)
        return result_output.report_short_grants(counts, options)
    run = resume.resume_run(scan, out, journal, request, new_id)
    if run.is_complete:
        invalid = scan.invalid_rows.count
        text = f"{out}: all {invalid:,} refused rows are invalid, nothing was requested: "
        click.echo(text + "correct them in a file of their own", err=True)
        return result_output.report_short_grants(journal.checkpoint, options) or 1
    return run


def _write_results(
    job: BulkJob, run: resume.RunPlan, default_format: str, options: Mapping[str, Any]
) -> int:
    """Write all results, and explain how to request refused rows again. Returns the exit code."""
    out: Path | None = options["out"]
    try:
        exit_code = result_output.write_results(job, default_format, options, run.journal)
    except BrokenPipeError:
        text = "the reader of stdout closed it: the rows requested so far are charged; with --out, "
        click.echo(text + "no result is lost", err=True)
        raise
    has_refused = job.refused > run.scan.invalid_rows.count
    if exit_code == result_output.EXPIRED:
        return exit_code  # the command that was printed requests the refused rows as well
    if out is not None and has_refused and journal_path(out).exists():
        text = f"the next command requests the refused rows again, and needs {journal_path(out)}"
        click.echo(f"{text}\nNext: {same_command('--resume')}", err=True)
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
    grant_options = command_base.extract_grant_options(options, kind)
    request_many = getattr(requester, f"{kind}_many")

    def request_batch(batch: BatchRequest) -> Any:
        batch_options = dict(grant_options)
        if batch.expires_in is not None:
            batch_options["expires_in"] = batch.expires_in
        if kind == "put":
            batch_options["max_size"] = max(batch.largest_size, 1)
        return request_many(
            bucket,
            batch.items,
            total=batch.total,
            chunk_size=batch.chunk_size,
            batch_id=batch.batch_id,
            first_chunk=batch.first_chunk,
            manifest=options["manifest"],
            **batch_options,
        )

    return request_batch


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
