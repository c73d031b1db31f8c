"""Plans a revocation: which live grants it ends, by which levers, and which others with them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.context import Context
from worker.core.revocation.levers import Lever, plan_levers
from worker.core.revocation.targets import LiveGrant, Target
from worker.core.tenants.config import TenantConfig
from worker.db.engine import snapshot_transaction
from worker.db.revocation.live_grants import open_batches, read_beside, read_targeted


@dataclass(frozen=True, slots=True)
class RevocationPlan:
    """A target, the live grants within it, and the levers that end them.

    unsent are the tenants and ids of batches that still accept chunks: they will be cancelled.
    """

    target: Target
    config: TenantConfig
    targeted: Sequence[LiveGrant]
    levers: Sequence[Lever]
    unsent: Sequence[tuple[str, str]]

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to revoke."""
        return not self.targeted and not self.unsent

    @property
    def denials(self) -> list[Lever]:
        """The levers that this command can do."""
        return [lever for lever in self.levers if lever.problem is None]

    @property
    def tenants(self) -> list[str]:
        """The ids of the tenants that it touches."""
        return sorted({grant.tenant for grant in self.targeted} | {id_ for id_, _ in self.unsent})


def plan_revocation(
    target: Target, context: Context, done: Iterable[LiveGrant] = ()
) -> RevocationPlan:
    """Read what a target covers now, and plan its levers. Raises Transient.

    The grants that are done are left out.
    """
    config, now = context.config.current(), context.now()
    is_done = {(grant.tenant, grant.id) for grant in done}
    with snapshot_transaction(context.engine) as connection:
        targeted = [
            grant
            for grant in read_targeted(connection, target, config, now)
            if (grant.tenant, grant.id) not in is_done
        ]
        beside = read_beside(connection, targeted, config, now) if targeted else []
        unsent = open_batches(connection, target, config)
    levers = plan_levers(target, targeted, beside, config)
    return RevocationPlan(target, config, targeted, levers, unsent)
