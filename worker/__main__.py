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
from worker.cli.command_options import with_programs
from worker.cli.found_service import ServiceNotFound
from worker.cli.groups import COMMANDS, command_group
from worker.features import FEATURES, load_each

# `dev` starts its own service. `run` must not add workers to one by accident, and `migrate` must
# change only the database that is named to it: `dev` migrates its own. So must
# `restore`, which creates that database.
_STANDALONE = {name for feature in FEATURES for name in feature.standalone}
# `doctor` has a check for unknown variables.
_WITHOUT_SETTINGS = {name for feature in FEATURES for name in feature.without_settings}
_QUIET = {"--json", "--csv"}  # for programs, which may read stderr with stdout
_HELP = {"-h", "--help"}


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
            raise WrongSettings(with_programs(text)) from None
        except click.ClickException as error:
            vars(error)["message"] = with_programs(error.message)  # declared as final
            raise


# Settings load SQLAlchemy and pydantic, which take three times as long as `health` needs in all.
def _settings_errors(error: ValueError) -> str | None:
    """Describe an error of the settings; return None for any other."""
    from pydantic import ValidationError  # noqa: PLC0415 - as above

    from worker.settings import describe_errors, is_settings_error  # noqa: PLC0415 - as above

    if isinstance(error, ValidationError) and is_settings_error(error):
        return describe_errors()
    return None


def _use_running_dev(context: click.Context, words: Sequence[str]) -> None:
    """Configure the command in `words` for the running `dev`, until the context closes.

    Settings of the environment take precedence.
    """
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None or command in _STANDALONE or _HELP & set(words):
        return
    try:
        found = (find(os.environ, Path.cwd()) for find in load_each("find_service"))
        running = next(filter(None, found), None)
    except ServiceNotFound as error:
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
    lazy_commands=COMMANDS[""],
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
    if context.invoked_subcommand not in _WITHOUT_SETTINGS:
        try:
            from worker.settings import unknown_variables  # noqa: PLC0415 - as above
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        for variable in unknown_variables(os.environ):
            if variable.suggestion:
                text = f"{variable.name} is unknown: did you mean {variable.suggestion}?"
                click.secho(f"WARNING: {text}", fg="yellow", err=True)


for _name in filter(None, COMMANDS):
    main.add_command(command_group(_name))

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main(prog_name="python -m worker")
