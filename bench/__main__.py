"""Measure valetkey as ratios within one run: `make bench`."""

import json
import os
from collections.abc import Callable

import click
from rich.console import Console

from bench import batches, bulk_latency, database_growth, signed_messages, signing, single_link
from bench.metrics import Measurements
from bench.report import as_object, as_table, machine_facts

PARTS: dict[str, Callable[[], Measurements]] = {
    "signing": signing.measure,
    "batches": batches.measure,
    "single": single_link.measure,
    "identity": signed_messages.measure,
    "beside": bulk_latency.measure,
    "growth": database_growth.measure,
    "stream": batches.measure_stream,
}
DEFAULT_PARTS = ("signing", "batches", "single", "identity", "beside")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(tuple(PARTS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(parts: tuple[str, ...], *, as_json: bool) -> None:
    """Measure PARTS; without arguments, all except `growth` and `stream`, which take long.

    \b
    Examples:
      python -m bench
      python -m bench signing --json
    """
    _remove_settings()
    measurements: Measurements = {}
    with Console(stderr=True).status("") as status:
        for part in parts or DEFAULT_PARTS:
            status.update(f"Measuring {part}")
            measurements |= PARTS[part]()
    if as_json:
        print(json.dumps(as_object(measurements, machine_facts()), indent=2))
    else:
        Console().print(as_table(measurements, machine_facts()))


def _remove_settings() -> None:
    # The developer's own settings must not change the measurements.
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "CELERY_", "VALETKEY_")):
            del os.environ[name]


if __name__ == "__main__":
    main(prog_name="python -m bench")
