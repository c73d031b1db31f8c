"""The command line of the service: `python -m worker`."""

from typing import Any

import click
from pydantic import ValidationError

from valetkey.cli.command_group import CommandGroup
from worker.commands.apply import apply
from worker.commands.audit.group import audit
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
from worker.settings import Settings, describe_errors, unknown_variables

_WITHOUT_SETTINGS = ("contract", "dev")
_WORDS = "worker.words"


class WrongSettings(click.ClickException):
    """A command that ends because settings are wrong. Nothing was done."""

    exit_code = 2


class _Commands(CommandGroup):
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
            raise WrongSettings(describe_errors(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Run and administer valetkey.

    Settings are read from environment variables named VALETKEY_…. Without any, commands that
    inspect or change a service use the `dev` that runs in this folder or a parent folder.

    \b
    Run everything on this machine, in one terminal:
      python -m worker dev
    """
    # `doctor` has a check for them.
    if context.invoked_subcommand not in {*_WITHOUT_SETTINGS, "doctor"}:
        for variable in unknown_variables():
            if variable.suggestion:
                text = f"{variable.name} is unknown: did you mean {variable.suggestion}?"
                click.secho(f"WARNING: {text}", fg="yellow", err=True)


for command in (
    *(apply, audit, contract, deadletters, deliveries, dev, doctor, explain, migrate, quota),
    *(run, workers),
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m worker")
