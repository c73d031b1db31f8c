"""The command line of the service: `python -m worker`."""

import atexit
import gc
import os
import signal
from typing import Any

if __name__ == "__main__":
    # Modules are not garbage. Searching them for some took a third of the time of `audit list`:
    # while they were imported, up to 130,000 objects, and once more when Python ended.
    gc.set_threshold(150_000)
    atexit.register(gc.freeze)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # The imports take a moment: until they are done, Ctrl-C ends the process without a
        # traceback.
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from collections.abc import Sequence
from pathlib import Path

import click

from valetkey.cli.command_groups import INTERRUPTED, WORDS, CommandGroup, LazyGroup
from valetkey.wire import RELEASE

_WITHOUT_SETTINGS = ("contract", "dev", "health")
# `dev` starts its own service. `run` must not add workers to one by accident, and `migrate` must
# change only the database that is named to it: `dev` migrates its own. So must
# `restore`, which creates that database.
_INDEPENDENT = {"dev", "run", "migrate", "contract", "restore", "health"}
_QUIET = {"--json", "--csv"}  # for programs, which may read stderr with stdout
_HELP = {"-h", "--help"}

_COMMANDS = {
    "apply": "tenants.apply_command:apply",
    "audit": "audit.audit_group:audit",
    "backup": "cli.backup_commands:backup",
    "contract": "contract.contract_command:contract",
    "deadletters": "broker.broker_commands:deadletters",
    "dev": "dev.dev_command:dev",
    "doctor": "doctor.doctor_command:doctor",
    "explain": "issue.explain_command:explain",
    "health": "health:health",
    "metrics": "doctor.metrics_command:metrics",
    "migrate": "cli.database:migrate",
    "permissions": "permissions.permissions_command:permissions",
    "quota": "tenants.quota_command:quota",
    "restore": "cli.backup_commands:restore",
    "revoke": "revoke.revoke_command:revoke",
    "run": "run:run",
    "uses": "uses.use_commands:uses",
    "webhooks": "webhooks.webhooks_group:webhooks",
    "workers": "broker.broker_commands:workers",
}


class WrongSettings(click.ClickException):
    """A command that ends because settings are wrong. Nothing was done."""

    exit_code = 2


class _Commands(CommandGroup, LazyGroup):
    """Commands that find a running `dev`, and end with a message if a setting is invalid."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            _use_running_dev(ctx, ctx.meta[WORDS])
            return super().invoke(ctx)
        except ValueError as error:
            text = _settings_errors(error)
            if text is None:
                raise
            raise WrongSettings(_with_programs(text)) from None
        except click.ClickException as error:
            vars(error)["message"] = _with_programs(error.message)  # declared as final
            raise


# Settings load SQLAlchemy and pydantic, which take three times as long as `health` needs in all.
def _settings_errors(error: ValueError) -> str | None:
    """Describe an error of the settings; return None for any other."""
    from pydantic import ValidationError  # noqa: PLC0415 - as above

    from worker.settings import Settings, describe_errors  # noqa: PLC0415 - as above

    if isinstance(error, ValidationError) and error.title == Settings.__name__:
        return describe_errors(error)
    return None


def _with_programs(message: str) -> str:
    # Loads SQLAlchemy, which a command that ends well may not need.
    from worker.cli.output import with_programs  # noqa: PLC0415

    return with_programs(message)


def _use_running_dev(context: click.Context, words: Sequence[str]) -> None:
    """Configure the command in `words` for the running `dev`, until the context closes.

    Settings of the environment take precedence.
    """
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None or command in _INDEPENDENT or _HELP & set(words):
        return
    from worker.dev.data_folder import FolderUnusable, find_running_dev  # noqa: PLC0415 - as above

    try:
        running = find_running_dev(os.environ, Path.cwd())
    except FolderUnusable as error:
        raise click.ClickException(str(error)) from None
    if running is None:
        return
    context.obj = running
    context.with_resource(running.configuring(os.environ))
    if not _QUIET & set(words):
        click.echo(f"Using the service of `python -m worker dev` in {running.data}.", err=True)


@click.group(
    cls=_Commands,
    package="worker",
    lazy_commands=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(RELEASE, prog_name="python -m worker")
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
        try:
            from worker.settings import unknown_variables  # noqa: PLC0415 - as above
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        for variable in unknown_variables(os.environ):
            if variable.suggestion:
                text = f"{variable.name} is unknown: did you mean {variable.suggestion}?"
                click.secho(f"WARNING: {text}", fg="yellow", err=True)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main(prog_name="python -m worker")
