"""The group of commands about what became of grants."""

import click

from valetkey.cli.lazy_group import LazyCommands, LazyGroup

# Each text is the first sentence of the command's own help, as a test checks.
_COMMANDS: LazyCommands = {
    "import": (
        "import_logs:import_logs",
        "Record the downloads in access logs: SOURCE is a file, a folder or s3://PROFILE/PREFIX.",
    ),
    "setup": (
        "setup:setup",
        "Print how to let the storage behind bucket profile PROFILE tell of uses.",
    ),
}


@click.group(cls=LazyGroup, package="worker.commands.usage", lazy_commands=_COMMANDS)
def usage() -> None:
    """Learn from storage what became of grants."""
