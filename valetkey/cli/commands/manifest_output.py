"""What is said of a batch whose answers the service writes to a file of its own."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from pydantic_core import to_jsonable_python

from valetkey.cli import output
from valetkey.cli.progress_bar import stderr_console
from valetkey.errors import BrokerUnreachable, NoAnswer
from valetkey.handles import BatchHandle
from valetkey.manifests import DEFAULT_TIMEOUT, Manifest


def write_manifest_response(batch: BatchHandle, said: Mapping[str, Any]) -> int:
    """Wait for the file, and print a link to it; return the exit code.

    The rest of what is known of it goes to stderr; as JSON, all is one object. Raises as
    BatchHandle.manifest does.
    """
    errors = stderr_console()
    waiting = f"{batch.total:,} rows are decided and written to {said['manifest']}"
    with _named(batch), errors.status(waiting) if errors.is_terminal else nullcontext():
        for _ in batch.results(said["timeout"]):
            pass
        found = batch.manifest(max(said["timeout"], DEFAULT_TIMEOUT))
    if said["form"] == "json":
        click.echo(json.dumps(_values(batch.id, found)))
    else:
        click.echo(found.grant.url)
        click.echo(_words(found), err=True)
    output.print_quota_warnings(batch.quotas)
    return 1 if found.refused else 0


@contextmanager
def _named(batch: BatchHandle) -> Iterator[None]:
    """Say where to go on with what is charged, should the wait for it end early."""
    try:
        yield
    except (KeyboardInterrupt, NoAnswer, BrokerUnreachable):
        if batch.remaining:  # what was not sent never comes, so it would be waited for in vain
            text = f"to have what was granted written, and no more: valetkey cancel {batch.id}"
        else:
            text = f"to wait on: Client().batch({batch.id!r}).manifest()"
        click.echo(text, err=True)
        raise


def _words(found: Manifest) -> str:
    counts = f"{found.issued:,} granted, {found.refused:,} refused"
    return f"{found.key!r}: {counts}; {found.bytes:,} bytes, sha256 {found.sha256}"


def _values(batch: str, found: Manifest) -> dict[str, Any]:
    told = {name: value for name, value in found._asdict().items() if name != "grant"}
    grant = to_jsonable_python(found.grant)
    return {"batch": batch, **told, "url": grant["url"], "expires_at": grant["expires_at"]}
