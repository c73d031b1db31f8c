"""Shows the `dev` that runs in a data folder."""

import json
from pathlib import Path
from typing import Any

import click
from sqlalchemy import make_url

from worker.broker.heartbeats import read_heartbeats
from worker.broker.sharing.queue_lengths import queue_lengths
from worker.commands.broker import open_redis
from worker.devstack.running import RunningDev, read_running_dev
from worker.devstack.state import load_state
from worker.devstack.tenants import read_config


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
