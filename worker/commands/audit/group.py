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
    "checkpoint": (
        "checkpoints.checkpoint:checkpoint",
        "Sign the head of each tenant's tree that has grown, and publish what is new.",
    ),
    "count": (
        "counts.count:count",
        "Count issued and refused items by tenant, day, reason or other columns.",
    ),
    "export": (
        "exports.export:export",
        "Export every requested item that matches, oldest batch first.",
    ),
    "key": (
        "checkpoints.key:key",
        "Print the public key that verifies checkpoints, or create a key pair.",
    ),
    "list": (
        "list_grants:list_grants",
        "List requested items, newest first: the decision is `issued` or the code of the refusal.",
    ),
    "prove": (
        "checkpoints.prove:prove",
        "Print a proof that GRANT is in the log, or that the log continues a checkpoint.",
    ),
    "prune": (
        "prune:prune_log",
        "Remove the grants of all chunks that were issued before a month, for ever.",
    ),
    "rejections": (
        "other_logs.rejections:list_rejections",
        "Count, by hour, the messages that could not be read or authenticated.",
    ),
    "report": (
        "report:report",
        "Write a report on the audit log as one web page that loads nothing from a network.",
    ),
    "revocations": (
        "other_logs.revocations:list_revocations",
        "List revocations, newest first, with who revoked what and why.",
    ),
    "show": (
        "show:show",
        "Show everything that is known about GRANT: [TENANT/]BATCH.NUMBER, or a batch's id.",
    ),
    "summary": (
        "counts.summary:summary",
        "Count issued and refused items by tenant and kind.",
    ),
    "top": (
        "counts.top:top",
        "List the requesters, keys, tenants or others with the most items.",
    ),
    "verify": (
        "verify:verify",
        "Verify that no row of the audit log was changed, removed, added or moved.",
    ),
    "whose": (
        "whose:whose",
        "Tell whose a link is: its tenant, requester and reason, and how to end it.",
    ),
}


@click.group(cls=LazyGroup, package="worker.commands.audit", lazy_commands=_COMMANDS)
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""
