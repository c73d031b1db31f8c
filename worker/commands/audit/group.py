"""The group of commands that read the audit log."""

import click

from valetkey.cli.lazy_group import LazyCommands, LazyGroup

# Each text is the first sentence of the command's own help, as a test checks.
_COMMANDS: LazyCommands = {
    "cancellations": (
        "other_logs.cancellations:list_cancellations",
        "List cancelled batches, newest first, with who cancelled them.",
    ),
    "changes": (
        "other_logs.changes:list_changes",
        "List changes of tenants, buckets, policies, keys and quotas, newest first.",
    ),
    "list": (
        "list_grants:list_grants",
        "List requested items, newest first: the decision is `issued` or the code of the refusal.",
    ),
    "prune": (
        "prune:prune_log",
        "Remove the grants of all chunks that were issued before a month, for ever.",
    ),
    "rejections": (
        "other_logs.rejections:list_rejections",
        "Count, by hour, the messages that could not be read or authenticated.",
    ),
    "summary": ("summary:summary", "Count issued and refused items by tenant and kind."),
}


@click.group(cls=LazyGroup, package="worker.commands.audit", lazy_commands=_COMMANDS)
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""
