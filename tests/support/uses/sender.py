"""Sends the webhooks that are due, in this process, until it ends or is killed.

Usage: python -m tests.support.uses.sender DATABASE_URL. The environment has the webhook secrets.
"""

import sys
from dataclasses import replace

from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.context import Context
from worker.ledger.tenant_rows import ConfigStore
from worker.webhooks.webhook_client import WebhookClient, webhook_client
from worker.webhooks.webhook_delivery import deliver_due

if __name__ == "__main__":
    engine = create_database_engine(sys.argv[1])
    context = Context(engine, ConfigStore(engine), S3Clients())
    deliver_due(replace(context, created={webhook_client: WebhookClient(development=True)}))
