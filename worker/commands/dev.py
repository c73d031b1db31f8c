"""Runs the whole service on this machine, for development."""

import os
import shlex
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worker.commands.signals import signals_as_interrupt
from worker.devstack.folder import FolderUnusable
from worker.devstack.processes import ProcessEnded, StartFailed
from worker.devstack.stack import StackInfo, running_stack

_DEFAULT_DATA = ".valetkey"
_PORT = click.IntRange(1, 65535)


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DEFAULT_DATA,
    show_default=True,
    help="Folder for all data and logs.",
)
@click.option(
    "--tenants",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default="examples/tenants.toml",
    show_default=True,
    help="Tenants file to apply at each start; what it does not contain is removed.",
)
@click.option("--port-s3", type=_PORT, help="Port of the S3 server. Default: a free port.")
@click.option("--port-broker", type=_PORT, help="Port of the broker. Default: a free port.")
def dev(data: Path, tenants: Path, port_s3: int | None, port_broker: int | None) -> None:
    """Run everything on this machine until Ctrl-C: broker, storage, database and worker.

    The database is SQLite, unless VALETKEY_DATABASE_URL names another one.

    \b
    Example:
      python -m worker dev
    """
    console = Console(highlight=False)
    ports = (port_broker, port_s3)
    try:
        with (
            signals_as_interrupt(),
            console.status("") as status,
            running_stack(data, tenants, os.environ, ports=ports, on_step=status.update) as stack,
        ):
            status.stop()
            _print_summary(console, stack.info, data)
            try:
                stack.watch()
            finally:
                console.print("Stopping.")
    except KeyboardInterrupt:
        console.print("Everything is stopped.")
    except (ProcessEnded, FolderUnusable, StartFailed) as error:
        raise click.ClickException(str(error)) from None


def _print_summary(console: Console, info: StackInfo, data: Path) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("Broker", f"Valkey at {info.broker_url}")
    table.add_row("Storage", f"SeaweedFS at {info.s3_endpoint}")
    table.add_row("Tenant", info.tenant)
    table.add_row("Data, logs", escape(f"{data}, {data / 'logs'}"))
    console.print("[bold green]Everything is up.[/] Ctrl-C stops it.\n")
    console.print(table)
    console.print("\nTry in a second terminal:\n")
    for command in _example_commands(info, data):
        console.print(f"  {command}", style="bold", markup=False, soft_wrap=True)
    console.print()


def _example_commands(info: StackInfo, data: Path) -> list[str]:
    producer = operator = ""
    if data != Path(_DEFAULT_DATA):  # where producers look without a setting
        producer = f"VALETKEY_DATA_DIR={shlex.quote(str(data))} "
        # The URL of a database server may contain a password, and the operator has set it anyway.
        if info.database_url.startswith("sqlite:"):
            operator = f"VALETKEY_DATABASE_URL={shlex.quote(info.database_url)} "
    key = f"{info.tenant}/hello.txt"
    return [
        f"{producer}valetkey upload demo {key} --max-size 500KiB --curl",
        f"{producer}valetkey download demo {key}",
        f"{operator}python -m worker audit list",
    ]
