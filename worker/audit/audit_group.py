"""The group of commands that read the audit log."""

import click

from valetkey.cli.command_groups import LazyGroup

_COMMANDS = {
    "cancellations": "audit.list_command:list_cancellations",
    "changes": "tenants.changes_command:list_changes",
    "checkpoint": "proof.checkpoint_command:checkpoint",
    "count": "audit.count_command:count",
    "erase": "audit.erasure:erase",
    "erasures": "audit.erasure:list_erasures",
    "export": "audit.export.export_command:export",
    "key": "proof.checkpoint_key:key",
    "list": "audit.list_command:list_grants",
    "prove": "proof.prove_command:prove",
    "prune": "proof.prune_command:prune_log",
    "rejections": "audit.list_command:list_rejections",
    "report": "audit.report.report_command:report",
    "revocations": "revoke.revocations_command:list_revocations",
    "show": "audit.show_command:show",
    "summary": "audit.count_command:summary",
    "top": "audit.count_command:top",
    "verify": "audit.verify.verify_command:verify",
    "whose": "audit.whose_command:whose",
}


@click.group(cls=LazyGroup, package="worker", lazy_commands=_COMMANDS)
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""
