"""What all commands do: pick a request's options, reach the service, explain what went wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from valetkey import files
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
from valetkey.sentences import sentence
from valetkey.terms import Kind


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
    """Say on stderr what went wrong, and exit with its code."""
    out: Path | None = said.get("out")
    try:
        yield
    except (NotConfigured, files.BadRow) as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:
        raise  # the reader of stdout has had enough: Click's to handle
    except OSError as error:
        raise click.UsageError(str(error)) from None
    except (NoAnswer, BrokerUnreachable, SealedToAnother) as error:
        kept = "" if out is None else f"; what came before is in {files.partial(out)}"
        raise _Unanswered(f"{error}{kept}") from None
    except Refused as error:
        click.echo(sentence(error.refusal), err=True)
        sys.exit(1)
    except NotStored as error:
        raise _NotStored(str(error)) from None
