"""Output of a batch whose results the service writes to an object: a manifest."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from click.core import ParameterSource
from pydantic_core import to_jsonable_python

from valetkey.cli.results import output
from valetkey.cli.results.consoles import stderr_console
from valetkey.cli.results.summary import describe_counts, describe_seconds
from valetkey.client import Client
from valetkey.errors import BrokerUnreachable, NoAnswer, Refused
from valetkey.handles import BatchHandle
from valetkey.manifests import DEFAULT_TIMEOUT, Manifest
from valetkey.multipart_storage import object_exists


def print_manifest_link(batch: BatchHandle, options: Mapping[str, Any]) -> int:
    """Wait for the manifest, print a link to it, and return the exit code.

    Without --timeout, the service has DEFAULT_TIMEOUT to write it.

    A summary with its counts, size and digest goes to stderr; with --json, everything is also one
    object on stdout.
    Raises as BatchHandle.manifest does.
    """
    errors, start = stderr_console(), time.monotonic()
    status = f"waiting for {batch.total:,} rows to be written to {options['manifest']}"
    with _continue_hint(batch), errors.status(status) if errors.is_terminal else nullcontext():
        for _ in batch.results(options["timeout"]):
            pass
        manifest = batch.manifest(_manifest_timeout(options))
    if options["output_format"] == "json":
        click.echo(json.dumps(_manifest_values(batch.id, manifest)))
    else:
        click.echo(manifest.grant.url)
    click.echo(_describe_manifest(manifest, time.monotonic() - start), err=True)
    output.print_quota_warnings(batch.quotas)
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


def _manifest_timeout(options: Mapping[str, Any]) -> float:
    source = click.get_current_context().get_parameter_source("timeout")
    is_default = source in {ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP}
    timeout: float = options["timeout"]
    return DEFAULT_TIMEOUT if is_default else timeout


@contextmanager
def _continue_hint(batch: BatchHandle) -> Iterator[None]:
    """Print how to continue with a batch, charged already, if the wait for it ends early."""
    try:
        yield
    except (KeyboardInterrupt, NoAnswer, BrokerUnreachable):
        if batch.remaining:  # chunks that were not sent never arrive: waiting would not help
            text = f"to have only the results so far written: valetkey cancel {batch.id}"
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
