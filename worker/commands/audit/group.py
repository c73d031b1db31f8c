"""The group of commands that read the audit log."""

import click

from worker.commands.audit.cancellations import list_cancellations
from worker.commands.audit.changes import list_changes
from worker.commands.audit.count import count
from worker.commands.audit.export import export
from worker.commands.audit.list_grants import list_grants
from worker.commands.audit.rejections import list_rejections
from worker.commands.audit.summary import summary
from worker.commands.audit.top import top


@click.group()
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""


for command in (
    count,
    export,
    list_cancellations,
    list_changes,
    list_grants,
    list_rejections,
    summary,
    top,
):
    audit.add_command(command)
