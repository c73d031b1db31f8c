"""The group of commands that read the audit log."""

import click

from valetkey.cli.command_groups import LazyCommands, LazyGroup

# Each text is the first sentence of the command's own help, as a test checks.
_COMMANDS: LazyCommands = {
    "cancellations": (
        "audit.list_command:list_cancellations",
        "List cancelled batches, newest first, with who cancelled them.",
    ),
    "changes": (
        "tenants.changes_command:list_changes",
        "List changes of tenants, buckets, policies, keys and quotas, newest first.",
    ),
    "checkpoint": (
        "proof.checkpoint_command:checkpoint",
        "Sign the head of each tenant's tree that has grown, and publish what is new.",
    ),
    "count": (
        "audit.count_command:count",
        "Count issued and refused items by tenant, day, reason or other columns.",
    ),
    "erase": (
        "audit.erasure:erase",
        "Erase recipients, requesters, reasons and references from the audit log, for ever.",
    ),
    "erasures": (
        "audit.erasure:list_erasures",
        "List erasures of texts, newest first, with who erased how many and why.",
    ),
    "export": (
        "audit.export.export_command:export",
        "Export every requested item that matches, oldest batch first.",
    ),
    "key": (
        "proof.checkpoint_key:key",
        "Print the public key that verifies checkpoints, or create a key pair.",
    ),
    "list": (
        "audit.list_command:list_grants",
        "List requested items, newest first: the decision is `issued` or the code of the refusal.",
    ),
    "prove": (
        "proof.prove_command:prove",
        "Print a proof that GRANT is in the log, or that the log continues a checkpoint.",
    ),
    "prune": (
        "proof.prune_command:prune_log",
        "Remove the grants of all chunks that were issued before a month, for ever.",
    ),
    "rejections": (
        "audit.list_command:list_rejections",
        "Count, by hour, the messages that could not be read or authenticated.",
    ),
    "report": (
        "audit.report.report_command:report",
        "Write a report on the audit log as one web page that loads nothing from a network.",
    ),
    "revocations": (
        "revoke.revocations_command:list_revocations",
        "List revocations, newest first, with who revoked what and why.",
    ),
    "show": (
        "audit.show_command:show",
        "Show everything that is known about GRANT: [TENANT/]BATCH.NUMBER, or a batch's id.",
    ),
    "summary": (
        "audit.count_command:summary",
        "Count issued and refused items by tenant and kind.",
    ),
    "top": (
        "audit.count_command:top",
        "List the requesters, keys, tenants or others with the most items.",
    ),
    "verify": (
        "audit.verify.verify_command:verify",
        "Verify that no row of the audit log was changed, removed, added or moved.",
    ),
    "whose": (
        "audit.whose_command:whose",
        "Tell whose a link is: its tenant, requester and reason, and how to end it.",
    ),
}


@click.group(cls=LazyGroup, package="worker", lazy_commands=_COMMANDS)
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""
