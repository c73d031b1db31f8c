"""Waits for the object of a grant that a command has printed."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import click
from click.core import ParameterSource

from valetkey.cli.commands.base import INTERRUPTED, NoResponseError, StorageFailure
from valetkey.cli.programs import program_command
from valetkey.cli.results.consoles import stderr_console
from valetkey.cli.use_tables import describe_stored, stored_json
from valetkey.errors import BrokerUnreachable, NoAnswer, NotStored
from valetkey.handles import GrantHandle
from valetkey.uses.stored import DEFAULT_TIMEOUT
from valetkey.wire.grant_ids import grant_id


def wait_until_stored(handle: GrantHandle, options: Mapping[str, Any]) -> None:
    """Wait until storage has the object, and describe it on stderr; with --json also on stdout.

    Without --timeout, the wait takes at most DEFAULT_TIMEOUT. Raises as BatchHandle.stored does. If
    the wait can go on, the error names the command for that: repeating this one is charged again.
    """
    sys.stdout.flush()  # a shell behind a pipe runs the printed command meanwhile
    errors = stderr_console()
    status = "waiting until storage has the object"
    try:
        with errors.status(status) if errors.is_terminal else nullcontext():
            stored = handle.batch.stored(0, _timeout(options))
    except NotStored as error:
        if error.use.state != "open":
            raise
        text = f"{error.use.key!r} is not known to be stored yet\n{_next_step(handle)}"
        raise StorageFailure(text) from None
    except (NoAnswer, BrokerUnreachable) as error:
        raise NoResponseError(f"{error}\n{_next_step(handle)}") from None
    except KeyboardInterrupt:
        click.echo(f"interrupted\n{_next_step(handle)}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(describe_stored(stored), err=True)
    if options["output_format"] == "json":
        click.echo(stored_json(stored))


def _next_step(handle: GrantHandle) -> str:
    command = f"{program_command('valetkey')} status {grant_id(handle.id, 0)} --watch"
    return f"Next: {command}"


def _timeout(options: Mapping[str, Any]) -> float:
    source = click.get_current_context().get_parameter_source("timeout")
    is_default = source in {ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP}
    timeout: float = options["timeout"]
    return DEFAULT_TIMEOUT if is_default else timeout
