"""What all commands do: pick a request's options, reach the service, explain what went wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from valetkey.cli.atomic_output import partial_path
from valetkey.cli.bulk import journal
from valetkey.cli.bulk.row_errors import InputError
from valetkey.cli.messages import describe_refusal
from valetkey.client import Client, ExplainMethods
from valetkey.errors import (
    BrokerUnreachable,
    NoAnswer,
    NotConfigured,
    NotStored,
    Refused,
    SealedForAnotherKey,
)
from valetkey.wire.chunking import option_names
from valetkey.wire.terms import Kind

_INTERRUPTED = 130  # 128 and SIGINT, as shells count


class _Unanswered(click.ClickException):
    exit_code = 3


class _NotStored(click.ClickException):
    exit_code = 4


def grant_options(said: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """What a request of this kind says, of all that the command line said."""
    return {
        name: said[name] for name in option_names(kind) if said.get(name) not in (None, False, {})
    }


def open_client(said: dict[str, Any]) -> Client:
    """A client for whom the command line names."""
    return Client(tenant=said["tenant"], requested_by=said.get("requested_by"))


def select_requester(client: Client, said: dict[str, Any]) -> Client | ExplainMethods:
    """Whoever asks: the client, or on a dry run what only asks what would be decided."""
    if not said["dry_run"]:
        return client
    if said["form"] not in {None, "json"} or said["out"]:
        raise click.UsageError("with --dry-run there are only rules to print, perhaps as --json")
    return client.explain(said["timeout"])


@contextmanager
def report_errors(said: dict[str, Any]) -> Iterator[None]:
    """Say on stderr what went wrong, and what there is of --out; and exit with its code."""
    out: Path | None = said.get("out")
    try:
        yield
    except (NotConfigured, InputError) as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:
        raise  # the reader of stdout has had enough: Click's to handle
    except OSError as error:
        raise click.UsageError(f"{error}{_left(out)}") from None
    except (NoAnswer, BrokerUnreachable, SealedForAnotherKey) as error:
        raise _Unanswered(f"{error}{_left(out)}") from None
    except KeyboardInterrupt:
        click.echo(f"interrupted{_left(out)}", err=True)
        sys.exit(_INTERRUPTED)
    except Refused as error:
        click.echo(describe_refusal(error.refusal), err=True)
        sys.exit(1)
    except NotStored as error:
        raise _NotStored(str(error)) from None


def _left(out: Path | None) -> str:
    """What there is of a file that is not complete, and how to go on with it."""
    if out is None or not partial_path(out).exists():
        return ""
    run = None
    with suppress(InputError):
        run = journal.load_journal(out)
    if run is None:
        return f"; what came before is in {partial_path(out)}"
    return (
        f"; {run.mark.rows:,} of {run.total:,} rows are in {partial_path(out)}: "
        "run the same command with --resume to go on"
    )
