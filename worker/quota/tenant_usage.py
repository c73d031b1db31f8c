"""Tells a tenant its quotas and its usage."""

from valetkey.wire.messages import UsageMessage
from valetkey.wire.replies import Usage
from worker.base.database_engine import autocommit_read
from worker.context import Context
from worker.ledger.quota_usage import read_quota_states
from worker.rules.authentication import AuthenticatedMessage
from worker.rules.decisions import Reply
from worker.rules.tenant_config import TenantConfig


def describe_usage(
    _message: UsageMessage, sender: AuthenticatedMessage, _config: TenantConfig, context: Context
) -> Reply:
    """Return the limit, usage and reset time of each of the tenant's quotas. Raises Transient."""
    with autocommit_read(context.engine) as connection:
        quotas = read_quota_states(connection, sender.tenant, context.now())
    return Reply.of(Usage(tenant=sender.tenant.name, quotas=quotas))
