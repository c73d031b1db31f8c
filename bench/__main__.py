"""Measure valetkey as ratios within one run: `make bench`."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from bench import batches, csv_links, database_growth, flood, signing
from bench.audit.measure import ROWS
from bench.audit.measure import measure as measure_audit
from bench.capacity import scale_out
from bench.capacity.measure import measure as measure_capacity
from bench.capacity.table import capacity_text
from bench.loop.measure import measure as measure_loop
from bench.metrics import Measurements
from bench.report import as_object, as_text, machine_facts, read_object
from bench.singles import async_links, bulk_latency, signed_messages, single_link
from bench.startup.measure import measure as measure_startup
from bench.uses import events, logs
from bench.webhooks.measure import measure as measure_webhooks

PARTS: dict[str, Callable[[], Measurements]] = {
    "signing": signing.measure,
    "batches": batches.measure,
    "single": single_link.measure,
    "async": async_links.measure,
    "identity": signed_messages.measure,
    "beside": bulk_latency.measure,
    "loop": measure_loop,
    "webhooks": measure_webhooks,
    "startup": measure_startup,
    "growth": database_growth.measure,
    "stream": batches.measure_stream,
    "csv": csv_links.measure,
    "scale": scale_out.measure,
    "capacity": measure_capacity,
    "events": events.measure,
    "logs": logs.measure,
    "audit": measure_audit,
    "flood": partial(flood.measure, flood.MESSAGES),
}
DEFAULT_PARTS = (
    *("signing", "batches", "single", "async", "identity", "beside", "loop", "startup"),
)


@click.command(epilog=f"The PARTS are {', '.join(PARTS)}.")
@click.argument("parts", nargs=-1, type=click.Choice(tuple(PARTS)), metavar="[PARTS]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--rows", type=click.IntRange(1_000), default=ROWS, show_default=True, help="Rows of `audit`."
)
@click.option(
    "--links",
    type=click.IntRange(1),
    default=csv_links.LINKS,
    show_default=True,
    help="Links of `csv` in each round.",
)
@click.option(
    "--messages",
    type=click.IntRange(1_000),
    default=flood.MESSAGES,
    show_default=True,
    help="Messages of `flood`.",
)
@click.option("--database", help="Build and measure the log of `audit` in this database instead.")
@click.option(
    "--baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Let `audit` compare the rate of issuing with that of this checkout.",
)
@click.option(
    "--compare",
    "earlier",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show the values of an earlier run beside this one's: the output of --json.",
)
def main(  # noqa: PLR0913 - one for each option
    parts: tuple[str, ...],
    *,
    as_json: bool,
    earlier: Path | None,
    rows: int,
    links: int,
    messages: int,
    database: str | None,
    baseline: Path | None,
) -> None:
    """Measure PARTS; without arguments, those that take a few minutes.

    `audit` builds a log of ten million rows once, and keeps it in the folder for temporary files.
    `scale`, `capacity` and `webhooks` need Linux.

    \b
    Examples:
      python -m bench
      python -m bench signing --json
      python -m bench single --compare before.json
      python -m bench capacity
      python -m bench audit --json --rows 1000000
    """
    _remove_settings()
    before = None if earlier is None else read_object(earlier)
    load = os.getloadavg()[0]
    functions = PARTS | {
        "audit": partial(measure_audit, rows, database, baseline),
        "csv": partial(csv_links.measure, links),
        "flood": partial(flood.measure, messages),
    }
    measurements = _measure({part: functions[part] for part in parts or DEFAULT_PARTS})
    facts = machine_facts(load)
    if as_json:
        print(json.dumps(as_object(measurements, facts), indent=2))
    else:
        Console().print(as_text(measurements, facts, before))
        if "capacity" in parts:
            print(f"\n{capacity_text(measurements)}")


def _measure(functions: Mapping[str, Callable[[], Measurements]]) -> Measurements:
    measurements: Measurements = {}
    with Console(stderr=True).status("") as status:
        for part, measure in functions.items():
            status.update(f"Measuring {part}")
            measurements |= measure()
    return measurements


def _remove_settings() -> None:
    # The developer's own settings must not change the measurements.
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "CELERY_", "VALETKEY_")):
            del os.environ[name]


if __name__ == "__main__":
    main(prog_name="python -m bench")
