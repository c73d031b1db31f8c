"""Sends the webhooks that are due, in this process, until it ends or is killed.

Usage: python -m tests.support.uses.sender DATABASE_URL. The environment has the webhook secrets.
"""

import sys
from dataclasses import replace

from worker.aws.clients import S3Clients
from worker.context import Context
from worker.db.config_store import ConfigStore
from worker.db.engine import create_database_engine
from worker.net.webhook_client import WebhookClient
from worker.usecases.upkeep.deliver import deliver_due

if __name__ == "__main__":
    engine = create_database_engine(sys.argv[1])
    context = Context(engine, ConfigStore(engine), S3Clients())
    deliver_due(replace(context, webhook_client=lambda: WebhookClient(development=True)))
