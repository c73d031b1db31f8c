"""Measure, as ratios in one run: `make bench`."""

import json
import os
from collections.abc import Callable

import click
from rich.console import Console

from bench import batches, beside, growth, identity, signing, single
from bench.figures import Measured
from bench.table import as_object, as_table, machine

PARTS: dict[str, Callable[[], Measured]] = {
    "signing": signing.measure,
    "batches": batches.measure,
    "single": single.measure,
    "identity": identity.measure,
    "beside": beside.measure,
    "growth": growth.measure,
    "stream": batches.measure_stream,
}
USUAL = ("signing", "batches", "single", "identity", "beside")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(tuple(PARTS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(parts: tuple[str, ...], *, as_json: bool) -> None:
    """Measure PARTS, all but the long `growth` and `stream` where none is named.

    \b
    Examples:
      python -m bench
      python -m bench signing --json
    """
    _forget_the_shell()
    measured: Measured = {}
    with Console(stderr=True).status("") as status:
        for part in parts or USUAL:
            status.update(f"Measuring {part}")
            measured |= PARTS[part]()
    if as_json:
        print(json.dumps(as_object(measured, machine()), indent=2))
    else:
        Console().print(as_table(measured, machine()))


def _forget_the_shell() -> None:
    # A developer's own settings must not reach into what is measured.
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "CELERY_", "VALETKEY_")):
            del os.environ[name]


if __name__ == "__main__":
    main(prog_name="python -m bench")
