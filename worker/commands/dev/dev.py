"""Runs the whole service on this machine, for development."""

import os
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from valetkey.cli.programs import program_command
from worker.commands.dev.first_commands import first_commands
from worker.commands.dev.status import status
from worker.commands.signals import signals_as_interrupt
from worker.devstack.folder import FolderUnusable
from worker.devstack.processes import ProcessEnded, StartFailed
from worker.devstack.stack import Stack, running_stack

_PORT = click.IntRange(1, 65535)


@click.group(invoke_without_command=True)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="VALETKEY_DATA_DIR",
    default=".valetkey",
    show_default=True,
    help="Folder for all data and logs. Also VALETKEY_DATA_DIR.",
)
@click.option(
    "--tenants",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Tenants file to apply; what it does not contain is removed. Default: what was applied "
    "last stays, and the first start applies examples/tenants.toml.",
)
@click.option(
    "--port-s3", type=_PORT, help="Port of the S3 server. Default: that of the last start."
)
@click.option(
    "--port-broker", type=_PORT, help="Port of the broker. Default: that of the last start."
)
@click.pass_context
def dev(
    context: click.Context,
    /,
    *,
    data: Path,
    tenants: Path | None,
    port_s3: int | None,
    port_broker: int | None,
) -> None:
    """Run everything on this machine until Ctrl-C: broker, storage, database and worker.

    The database is SQLite, unless VALETKEY_DATABASE_URL names another one. Tenants, keys, grants,
    stored objects and ports stay in the data folder until the next start. To start again from
    nothing, stop this command and delete that folder.

    \b
    Examples:
      python -m worker dev
      python -m worker dev --tenants tenants.toml
      python -m worker dev status
    """
    if context.invoked_subcommand is None:
        _run(data, tenants, (port_broker, port_s3))
    else:
        context.obj = data


dev.add_command(status)


def _run(data: Path, tenants: Path | None, ports: tuple[int | None, int | None]) -> None:
    console = Console(highlight=False)
    try:
        with (
            signals_as_interrupt(),
            console.status("") as step,
            running_stack(data, tenants, os.environ, ports=ports, on_step=step.update) as stack,
        ):
            step.stop()
            _print_summary(console, stack, data)
            try:
                stack.watch()
            finally:
                console.print("Stopping.")
    except KeyboardInterrupt:
        console.print("Everything is stopped.")
    except (ProcessEnded, FolderUnusable, StartFailed) as error:
        raise click.ClickException(str(error)) from None


def _print_summary(console: Console, stack: Stack, data: Path) -> None:
    info = stack.info
    table = Table.grid(padding=(0, 2))
    table.add_row("Broker", f"Valkey at {info.broker_url}")
    table.add_row("Storage", f"SeaweedFS at {info.s3_endpoint}")
    table.add_row("Tenants", escape(", ".join(stack.config.tenants)))
    if stack.state.tenants_file:
        table.add_row("as applied from", escape(stack.state.tenants_file))
    table.add_row("Data, logs", escape(f"{data}, {data / 'logs'}"))
    console.print("[bold green]Everything is up.[/] Ctrl-C stops it.\n")
    console.print(table)
    if stack.notes:
        console.print()
    for note in stack.notes:
        console.print(note, markup=False, soft_wrap=True)
    tenant = next(iter(stack.config.tenants.values()))
    console.print("\nTry in a second terminal, in this folder:\n")
    for command in first_commands(stack.config, data):
        console.print(f"  {command}", style="bold", markup=False, soft_wrap=True)
    if tenant.trust == "keys":
        key = "set VALETKEY_KEY_FILE, unless `valetkey init` wrote it"
        text = f"\n{tenant.name} needs its key: {key}."
        console.print(text, markup=False, soft_wrap=True)
    apply = f"{program_command('python')} -m worker apply FILE"
    text = f"\n`{apply}` changes the tenants. They stay so at the next start."
    console.print(text, markup=False, soft_wrap=True)
