"""The group of commands about the uses of grants."""

import click

from valetkey.cli.command_groups import LazyCommands, LazyGroup

# Each text is the first sentence of the command's own help, as a test checks.
_COMMANDS: LazyCommands = {
    "import": (
        "log_import_command:import_logs",
        "Record the downloads in access logs: SOURCE is a file, a folder or s3://PROFILE/PREFIX.",
    ),
    "setup": (
        "storage_setup_command:setup",
        "Print how to let the storage behind bucket profile PROFILE tell of uses.",
    ),
}


@click.group(cls=LazyGroup, package="worker.uses", lazy_commands=_COMMANDS)
def usage() -> None:
    """Learn from storage what became of grants."""
