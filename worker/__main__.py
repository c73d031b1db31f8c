"""The command line of the service: `python -m worker`."""

from typing import Any

import click
from pydantic import ValidationError

from worker.commands.apply import apply
from worker.commands.audit import audit
from worker.commands.contract import contract
from worker.commands.database import migrate
from worker.commands.deadletters import deadletters
from worker.commands.deliveries import deliveries
from worker.commands.dev.dev import dev
from worker.commands.dev.discovery import use_running_dev
from worker.commands.explain import explain
from worker.commands.health.doctor import doctor
from worker.commands.quota import quota
from worker.commands.run import run
from worker.commands.workers import workers
from worker.settings import Settings, setting_errors

_WORDS = "worker.words"


class _Commands(click.Group):
    """Commands that find a running `dev`, and end with a message if a setting is invalid."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        use_running_dev(ctx, ctx.meta[_WORDS])
        try:
            return super().invoke(ctx)
        except ValidationError as error:
            if error.title != Settings.__name__:
                raise
            raise click.ClickException("\n".join(setting_errors(error))) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run and administer valetkey.

    Settings are read from environment variables named VALETKEY_…. Without any, commands that
    inspect or change a service use the `dev` that runs in this folder or a parent folder.

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
