"""Plans a revocation: which live grants it ends, by which levers, and which others with them."""

from collections.abc import Sequence
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
    def denials(self) -> list[Lever]:
        """The levers that this command can do."""
        return [lever for lever in self.levers if lever.problem is None]


def plan_revocation(target: Target, context: Context) -> RevocationPlan:
    """Read what a target covers now, and plan its levers. Raises Transient."""
    config, now = context.config.current(), context.now()
    with snapshot_transaction(context.engine) as connection:
        targeted = read_targeted(connection, target, config, now)
        beside = read_beside(connection, targeted, config, now) if targeted else []
        unsent: list[tuple[str, str]] = []
        if target.kind in {"batch", "tenant"}:
            unsent = open_batches(connection, [grant.batch_number for grant in targeted])
    return RevocationPlan(
        target, config, targeted, plan_levers(target, targeted, beside, config), unsent
    )
