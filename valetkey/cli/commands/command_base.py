"""Steps that all commands share: select options, create the client, report errors."""

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from valetkey.cli import journal
from valetkey.cli.atomic_output import is_being_replaced, partial_path, reject_existing_output
from valetkey.cli.command_groups import (
    INTERRUPTED,
    OutputFailure,
    describe_os_error,
)
from valetkey.cli.descriptions import describe_refusal
from valetkey.cli.row_errors import InputError
from valetkey.cli.terminal_text import same_command
from valetkey.client import Client, Explainer
from valetkey.errors import (
    BrokerUnreachable,
    NoAnswer,
    NotConfigured,
    Refused,
    SealedForAnotherKey,
    StorageError,
    UnreadableReply,
    UnusableGrant,
)
from valetkey.units import describe_duration
from valetkey.wire.refusals import Code
from valetkey.wire.requests import option_names
from valetkey.wire.terms import Kind

_UNKNOWN_IDS = frozenset({Code.BATCH_UNKNOWN, Code.GRANT_UNKNOWN})
_NEXT_FOR_UNKNOWN_ID = (
    "Next: check the id and the tenant. --json and --csv print the ids of grants, and the operator "
    "finds them with `python -m worker audit list`."
)
_NEWER_SERVICE = (UnreadableReply, UnusableGrant)


class NoResponseError(click.ClickException):
    """No response came in time, or none that this release can read."""

    exit_code = 3


class StorageFailure(click.ClickException):
    """An object was not stored."""

    exit_code = 4


def extract_grant_options(options: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Return the command-line options that are set and apply to this kind of grant."""
    names = option_names(kind)
    values = {name: options.get(name) for name in names}
    return {name: v for name, v in values.items() if v is not None and v is not False and v != {}}


def open_client(options: Mapping[str, Any]) -> Client:
    """Create a client for the tenant and requester that the options name.

    It hands out what is stored: commands say what has expired, and issue nothing unasked.
    """
    requester = options.get("requested_by")
    return Client(tenant=options["tenant"], requested_by=requester, min_left=0)


def select_timeout(options: Mapping[str, Any], default: float) -> float:
    """Return the timeout that was given, or else the default of a wait for more than a response."""
    source = click.get_current_context().get_parameter_source("timeout")
    is_default = source in {ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP}
    timeout: float = options["timeout"]
    return default if is_default else timeout


def check_min_left(options: Mapping[str, Any], lifetimes: Iterable[int]) -> None:
    """Raise click.UsageError if no new grant would have the time left that --min-left asks for."""
    min_left = options["min_left"]
    short = [each for each in lifetimes if min_left is not None and each <= min_left]
    if short:
        requested = f"the requested time, {describe_duration(min(short))}: see --expires-in"
        raise click.UsageError(f"--min-left must be less than {requested}")


def select_request_methods(client: Client, options: Mapping[str, Any]) -> Client | Explainer:
    """Return the client, or for --dry-run its ExplainMethods.

    Raises click.UsageError if --out exists and neither --force nor --resume allows that, and as
    check_min_left does.
    """
    if options["force"] and not (options["out"] or options.get("manifest")):
        raise click.UsageError("--force needs --out or --manifest: it replaces that")
    if options.get("source") is None:
        check_min_left(options, [options["expires_in"]])
    if not options["dry_run"]:
        if options["out"] and not options["force"] and options.get("source") is None:
            reject_existing_output(options["out"], is_bulk=False)
        return client
    if options["output_format"] not in {None, "json"} or options["out"]:
        raise click.UsageError(
            "--dry-run prints only rules: use it without --out, and with no format but --json"
        )
    return client.explain(options["timeout"])


@contextmanager
def report_errors(options: Mapping[str, Any]) -> Iterator[None]:
    """Report an error on stderr, with the state of --out, and exit with the error's code."""
    out: Path | None = options.get("out")
    # Ctrl-C may come between the creation of a coroutine and its start.
    warnings.filterwarnings("ignore", "coroutine '.+' was never awaited", RuntimeWarning)
    try:
        yield
    except (NotConfigured, InputError) as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:
        raise  # the reader of stdout closed it; Click handles that
    except FileExistsError as error:
        raise click.UsageError(f"{describe_os_error(error)}{_resume_hint(out)}") from None
    except OSError as error:
        raise OutputFailure(describe_os_error(error, out) + _resume_hint(out)) from None
    except (NoAnswer, BrokerUnreachable, SealedForAnotherKey, *_NEWER_SERVICE) as error:
        raise NoResponseError(f"{error}{_resume_hint(out)}") from None
    except KeyboardInterrupt:
        click.echo(f"interrupted{_resume_hint(out)}", err=True)
        sys.exit(INTERRUPTED)
    except Refused as error:
        click.echo(describe_refusal(error.refusal), err=True)
        if error.refusal.code in _UNKNOWN_IDS:
            click.echo(_NEXT_FOR_UNKNOWN_ID, err=True)
        sys.exit(1)
    except StorageError as error:
        raise StorageFailure(str(error)) from None


def _resume_hint(out: Path | None) -> str:
    """Describe the rows written so far and how to resume the run; empty if there are none."""
    if out is None or not partial_path(out).exists():
        return ""
    run_journal = None
    with suppress(InputError):
        run_journal = journal.load_journal(out)
    if is_being_replaced(out, run_journal):
        text = f"; no row was requested, and {out} is still that of an earlier run"
    elif run_journal is None:
        return f"; the rows written so far are in {partial_path(out)}"
    else:
        rows = f"{run_journal.checkpoint.rows:,} of {run_journal.total:,} rows"
        text = f"; {rows} are in {partial_path(out)}: the next command continues"
    return f"{text}\nNext: {same_command('--resume')}"
