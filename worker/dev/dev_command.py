"""The commands `dev` and `dev status`: run the whole service on this machine, and show it."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import make_url

from valetkey.cli.terminal_text import program_command
from worker.cli.found_service import EXPLICIT_SETTINGS
from worker.cli.redis_servers import open_redis
from worker.dev.child_processes import ProcessEnded, StartFailed
from worker.dev.data_folder import (
    DATABASE_URL,
    FolderUnusable,
    RunningDev,
    load_state,
    read_running_dev,
)
from worker.dev.stack import Stack, read_config, running_stack
from worker.rules.tenant_config import Policy, Tenant, TenantConfig
from worker.settings import check_database_url
from worker.shared.command_options import signals_as_interrupt
from worker.shared.worker_states import queue_lengths, read_heartbeats

_MAX_SIZE = 500 * 1024


def first_commands(config: TenantConfig, data: Path) -> Iterator[str]:
    """Yield commands that the config allows, for a shell in the working folder."""
    valetkey, python = program_command("valetkey"), program_command("python")
    # Producers and operators look for `.valetkey` if no setting names another folder.
    found = data.resolve() == Path(".valetkey").resolve()
    folder = "" if found else f"VALETKEY_DATA_DIR={shlex.quote(str(data))} "
    for words in _requests(next(iter(config.tenants.values()))):
        yield f"{folder}{valetkey} {shlex.join(words)}"
    yield f"{folder}{python} -m worker audit list"


def _requests(tenant: Tenant) -> Iterator[list[str]]:
    for policy in tenant.policies.values():
        key = f"{'' if policy.prefixes[0] == '*' else policy.prefixes[0]}hello.txt"
        if "upload" in policy.kinds:
            yield ["upload", policy.bucket, key, *_upload_options(policy), "--curl"]
        if "download" in policy.kinds:
            yield ["download", policy.bucket, key]
        return


def _upload_options(policy: Policy) -> list[str]:
    size = "500KiB" if policy.max_size >= _MAX_SIZE else str(policy.max_size)
    types = policy.content_types
    chosen = [] if "application/octet-stream" in types else ["--content-type", types[0]]
    return ["--max-size", size, *chosen]


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="VALETKEY_DATA_DIR",
    help="The data folder of `dev`. Default: .valetkey here or in the nearest parent folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def status(context: click.Context, /, *, data: Path | None, as_json: bool) -> None:
    """Show whether `dev` runs, its addresses, tenants, waiting messages and workers.

    Prints no secret. Exits with 1 if it does not run.

    \b
    Example:
      python -m worker dev status
    """
    folder = data or _find_folder(context.obj)
    running = read_running_dev(folder)
    values = {"running": running is not None, "data": str(folder.resolve())}
    if running is not None:
        values |= _read_status(running)
    if as_json:
        click.echo(json.dumps(values, indent=2))
    elif running is None:
        click.echo(f"dev is not running in {folder}: python -m worker dev starts it.", err=True)
    else:
        _print_status(values)
    if running is None:
        context.exit(1)


def _find_folder(configured: Path) -> Path:
    """Return the configured folder, or if there is none, the same in the nearest parent folder."""
    here = Path.cwd()
    folders = [folder / configured for folder in (here, *here.parents)]
    return next((folder for folder in folders if (folder / "lock").exists()), configured)


def _read_status(running: RunningDev) -> dict[str, Any]:
    info = running.info
    with open_redis("broker of dev", info.broker_url) as client:
        waiting = sum(queue_lengths(client).values())
    with open_redis("result store of dev", info.result_url) as client:
        heartbeats = read_heartbeats(client)  # those of a killed stack last 20 seconds longer
    own = set(info.pids.values())
    workers = [heartbeat.worker for heartbeat in heartbeats if heartbeat.supervisor in own]
    return {
        "broker_url": info.broker_url,
        "result_url": info.result_url,
        "database_url": make_url(info.database_url).render_as_string(hide_password=True),
        "s3_endpoint": info.s3_endpoint,
        "tenants_file": load_state(running.data).tenants_file,
        "tenants": list(read_config(info.database_url).tenants),
        "waiting_messages": waiting,
        "workers": workers,
    }


def _print_status(values: dict[str, Any]) -> None:
    click.echo("dev is running.\n")
    for name, value in values.items():
        if name != "running":
            text = ", ".join(value) if isinstance(value, list) else value
            click.echo(f"{name.replace('_', ' '):<17} {'-' if text in {None, ''} else text}")


_PORT = click.IntRange(1, 65535)


def _parse_database(
    _context: click.Context, _option: click.Parameter, url: str | None
) -> str | None:
    try:
        return None if url is None else check_database_url(url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


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
    "--database",
    metavar="URL",
    callback=_parse_database,
    help="Database to use, like postgresql://USER:PASSWORD@HOST/DATABASE. Default: SQLite in the "
    "data folder, whatever VALETKEY_DATABASE_URL says.",
)
@click.option(
    "--port-s3", type=_PORT, help="Port of the S3 server. Default: that of the last start."
)
@click.option(
    "--port-broker", type=_PORT, help="Port of the broker. Default: that of the last start."
)
@click.pass_context
def dev(  # noqa: PLR0913 - the command's options
    context: click.Context,
    /,
    *,
    data: Path,
    tenants: Path | None,
    database: str | None,
    port_s3: int | None,
    port_broker: int | None,
) -> None:
    """Run everything on this machine until Ctrl-C: broker, storage, database and worker.

    Uses none of the servers that this shell's settings name. Tenants, keys, grants, stored objects
    and ports stay in the data folder until the next start. To start again from nothing, stop this
    command and delete that folder.

    \b
    Examples:
      python -m worker dev
      python -m worker dev --tenants tenants.toml
      python -m worker dev status
    """
    if context.invoked_subcommand is None:
        settings = {} if database is None else {DATABASE_URL: database}
        _run(data, tenants, settings, (port_broker, port_s3))
    else:
        context.obj = data


dev.add_command(status)


def _run(
    data: Path,
    tenants: Path | None,
    settings: dict[str, str],
    ports: tuple[int | None, int | None],
) -> None:
    console = Console(highlight=False)
    start = partial(running_stack, data, tenants, os.environ, settings=settings, ports=ports)
    try:
        with (
            signals_as_interrupt(),
            console.status("") as step,
            start(on_step=step.update) as stack,
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
        hint = f"\n{DATABASE_URL} is here the URL of --database." if settings else ""
        raise click.ClickException(f"{error}{hint}") from None


def _ignored_settings(environ: Mapping[str, str]) -> Iterator[str]:
    names = [name for name in EXPLICIT_SETTINGS if environ.get(name)]
    if names:
        yield (
            f"This shell sets {', '.join(names)}: dev does not use them, but the commands below do."
            " Run them in a shell without."
        )


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
    notes = [*stack.notes, *_ignored_settings(os.environ)]
    if notes:
        console.print()
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    tenant = next(iter(stack.config.tenants.values()))
    console.print("\nTry in a second terminal, in this folder:\n")
    for command in first_commands(stack.config, data):
        console.print(f"  {command}", style="bold", markup=False, soft_wrap=True)
    if tenant.trust == "keys":
        key = "set VALETKEY_KEY_FILE, unless `valetkey init` wrote it"
        text = f"\n{tenant.name} needs its key: {key}."
        console.print(text, markup=False, soft_wrap=True)
    file = shlex.quote(stack.state.tenants_file or "tenants.toml")
    apply = f"{program_command('python')} -m worker apply {file}"
    text = f"\n`{apply}` changes the tenants. They stay so at the next start."
    console.print(text, markup=False, soft_wrap=True)
