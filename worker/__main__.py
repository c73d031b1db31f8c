"""The command line of the service: `python -m worker`."""

from typing import Any

import click
from pydantic import ValidationError

from valetkey.cli.command_group import CommandGroup
from worker.commands.apply import apply
from worker.commands.audit import audit
from worker.commands.contract import contract
from worker.commands.database import migrate
from worker.commands.deadletters import deadletters
from worker.commands.deliveries import deliveries
from worker.commands.dev import dev
from worker.commands.explain import explain
from worker.commands.health.doctor import doctor
from worker.commands.quota import quota
from worker.commands.run import run
from worker.commands.workers import workers
from worker.settings import Settings, setting_errors


class _Commands(CommandGroup):
    """Commands that end with a message if a setting is invalid."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValidationError as error:
            if error.title != Settings.__name__:
                raise
            raise click.ClickException("\n".join(setting_errors(error))) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run and administer valetkey.

    Settings are read from environment variables named VALETKEY_….

    \b
    Run everything on this machine, in one terminal:
      python -m worker dev
    """


for command in (
    *(apply, audit, contract, deadletters, deliveries, dev, doctor, explain, migrate, quota),
    *(run, workers),
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m worker")
