"""The group of commands that read the audit log."""

import click

from worker.commands.audit.cancellations import list_cancellations
from worker.commands.audit.changes import list_changes
from worker.commands.audit.list_grants import list_grants
from worker.commands.audit.rejections import list_rejections
from worker.commands.audit.show import show
from worker.commands.audit.summary import summary


@click.group()
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""


for command in (
    list_cancellations,
    list_changes,
    list_grants,
    list_rejections,
    show,
    summary,
):
    audit.add_command(command)
