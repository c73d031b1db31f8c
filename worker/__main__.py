"""The command line of the service: `python -m worker`."""

import click

from worker.commands.apply import apply
from worker.commands.audit import audit
from worker.commands.database import migrate
from worker.commands.deliveries import deliveries
from worker.commands.dev import dev
from worker.commands.doctor import doctor
from worker.commands.explain import explain
from worker.commands.quota import quota
from worker.commands.run import run


@click.group()
def main() -> None:
    """Run and administer valetkey.

    Settings are read from environment variables named VALETKEY_….

    \b
    Run everything on this machine, in one terminal:
      python -m worker dev
    """


for command in (apply, audit, deliveries, dev, doctor, explain, migrate, quota, run):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m worker")
