"""Waits for the object of a grant that a command has printed."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import click
from click.core import ParameterSource

from valetkey.cli.results.consoles import stderr_console
from valetkey.cli.use_tables import describe_stored, stored_json
from valetkey.handles import GrantHandle
from valetkey.uses.stored import DEFAULT_TIMEOUT


def wait_until_stored(handle: GrantHandle, options: Mapping[str, Any]) -> None:
    """Wait until storage has the object, and describe it on stderr; with --json also on stdout.

    Without --timeout, the wait takes at most DEFAULT_TIMEOUT. Raises as BatchHandle.stored does.
    """
    sys.stdout.flush()  # a shell behind a pipe runs the printed command meanwhile
    errors = stderr_console()
    status = "waiting until storage has the object"
    with errors.status(status) if errors.is_terminal else nullcontext():
        stored = handle.batch.stored(0, _timeout(options))
    click.echo(describe_stored(stored), err=True)
    if options["output_format"] == "json":
        click.echo(stored_json(stored))


def _timeout(options: Mapping[str, Any]) -> float:
    source = click.get_current_context().get_parameter_source("timeout")
    is_default = source in {ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP}
    timeout: float = options["timeout"]
    return DEFAULT_TIMEOUT if is_default else timeout
