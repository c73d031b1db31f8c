"""What all commands do: pick a request's options, reach the service, explain what went wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from valetkey.batches import known
from valetkey.client import Client, Explaining
from valetkey.errors import (
    BrokerUnreachable,
    NoAnswer,
    NotConfigured,
    NotStored,
    Refused,
    SealedToAnother,
)
from valetkey.jobs import journal
from valetkey.jobs.bad import BadInput
from valetkey.keeping import partial
from valetkey.sentences import sentence
from valetkey.terms import Kind

_INTERRUPTED = 130  # 128 and SIGINT, as shells count


class _Unanswered(click.ClickException):
    exit_code = 3


class _NotStored(click.ClickException):
    exit_code = 4


def options(said: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """What a request of this kind says, of all that the command line said."""
    return {name: said[name] for name in known(kind) if said.get(name) not in (None, False, {})}


def client(said: dict[str, Any]) -> Client:
    """A client for whom the command line names."""
    return Client(tenant=said["tenant"], requested_by=said.get("requested_by"))


def asker(client: Client, said: dict[str, Any]) -> Client | Explaining:
    """Whoever asks: the client, or on a dry run what only asks what would be decided."""
    if not said["dry_run"]:
        return client
    if said["form"] not in {None, "json"} or said["out"]:
        raise click.UsageError("with --dry-run there are only rules to print, perhaps as --json")
    return client.explain(said["timeout"])


@contextmanager
def explained(said: dict[str, Any]) -> Iterator[None]:
    """Say on stderr what went wrong, and what there is of --out; and exit with its code."""
    out: Path | None = said.get("out")
    try:
        yield
    except (NotConfigured, BadInput) as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:
        raise  # the reader of stdout has had enough: Click's to handle
    except OSError as error:
        raise click.UsageError(f"{error}{_left(out)}") from None
    except (NoAnswer, BrokerUnreachable, SealedToAnother) as error:
        raise _Unanswered(f"{error}{_left(out)}") from None
    except KeyboardInterrupt:
        click.echo(f"interrupted{_left(out)}", err=True)
        sys.exit(_INTERRUPTED)
    except Refused as error:
        click.echo(sentence(error.refusal), err=True)
        sys.exit(1)
    except NotStored as error:
        raise _NotStored(str(error)) from None


def _left(out: Path | None) -> str:
    """What there is of a file that is not complete, and how to go on with it."""
    if out is None or not partial(out).exists():
        return ""
    run = None
    with suppress(BadInput):
        run = journal.load(out)
    if run is None:
        return f"; what came before is in {partial(out)}"
    return (
        f"; {run.mark.rows:,} of {run.total:,} rows are in {partial(out)}: "
        "run the same command with --resume to go on"
    )
