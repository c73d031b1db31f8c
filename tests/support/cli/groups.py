"""The groups of the operator's commands."""

from worker.cli.groups import command_group

audit = command_group("audit")
webhooks = command_group("webhooks")
