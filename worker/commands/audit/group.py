"""The group of commands that read the audit log."""

import click

from worker.commands.audit.cancellations import list_cancellations
from worker.commands.audit.changes import list_changes
from worker.commands.audit.key import key
from worker.commands.audit.list_grants import list_grants
from worker.commands.audit.rejections import list_rejections
from worker.commands.audit.summary import summary
from worker.commands.audit.verify import verify


@click.group()
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""


for command in (
    key,
    list_cancellations,
    list_changes,
    list_grants,
    list_rejections,
    summary,
    verify,
):
    audit.add_command(command)
