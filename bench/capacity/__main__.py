"""Prints the table of an earlier run of `capacity`: `python -m bench.capacity FILE`."""

from pathlib import Path

import click

from bench.capacity.table import capacity_text
from bench.report import read_object


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Print what larger loads need, for the costs in FILE: the output of --json."""
    measurements = read_object(file)
    if not any(name.startswith("capacity_") for name in measurements):
        raise click.UsageError(f"{file} has no costs: run `python -m bench capacity --json`")
    print(capacity_text(measurements))


if __name__ == "__main__":
    main(prog_name="python -m bench.capacity")
