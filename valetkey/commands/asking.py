"""What all commands do: pick a request's options, reach the service, explain what went wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from valetkey import files, output
from valetkey.batches import known
from valetkey.client import Client
from valetkey.errors import BrokerUnreachable, NoAnswer, NotConfigured, NotStored, Refused
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
    return Client(tenant=said["tenant"], requested_by=said["requested_by"])


@contextmanager
def explained(said: dict[str, Any]) -> Iterator[None]:
    """Say on stderr what went wrong, and exit with its code."""
    out: Path | None = said["out"]
    try:
        yield
    except (NotConfigured, files.BadRow) as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:
        raise  # the reader of stdout has had enough: Click's to handle
    except OSError as error:
        raise click.UsageError(str(error)) from None
    except (NoAnswer, BrokerUnreachable) as error:
        kept = "" if out is None else f"; what came before is in {files.partial(out)}"
        raise _Unanswered(f"{error}{kept}") from None
    except Refused as error:
        click.echo(output.sentence(error.refusal), err=True)
        sys.exit(1)
    except NotStored as error:
        raise _NotStored(str(error)) from None
