"""Plans a revocation: which live grants it ends, by which levers, and which others with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.context import Context
from worker.core.revocation.levers import Lever, plan_levers
from worker.core.revocation.targets import LiveGrant, Target
from worker.core.tenants.config import TenantConfig
from worker.db.engine import snapshot_transaction
from worker.db.revocation.live_grants import open_batches, read_beside, read_targeted
from worker.db.revocation.rows import LiveDenial, read_live_denials
from worker.usecases.revocation.statements import find_earlier


@dataclass(frozen=True, slots=True)
class RevocationPlan:
    """A target, the live grants within it, and the levers that end them.

    unsent are the tenants and ids of batches that still accept chunks: they will be cancelled.
    With ends_sessions, the sessions of roles will be ended, which ends the grants of all tenants
    that share them. hosts has the host in links of each bucket profile of a targeted grant, and
    on_aws those of them that are on AWS. earlier are statements that already deny all that a lever
    would, by the lever's place, and live_denials all statements that deny anything.
    """

    target: Target
    config: TenantConfig
    targeted: Sequence[LiveGrant]
    levers: Sequence[Lever]
    unsent: Sequence[tuple[str, str]]
    ends_sessions: bool = False
    hosts: Mapping[str, str | None] = field(default_factory=dict)
    on_aws: frozenset[str] = frozenset()
    earlier: Mapping[str, LiveDenial] = field(default_factory=dict)
    live_denials: Sequence[LiveDenial] = ()

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to revoke."""
        return not self.targeted and not self.unsent

    @property
    def denials(self) -> list[Lever]:
        """The levers that deny objects in the policy of a bucket."""
        return [lever for lever in self.levers if lever.denial and lever.problem is None]

    @property
    def session_ends(self) -> list[Lever]:
        """The levers that end the sessions of a role, if that was asked for."""
        return [lever for lever in self.levers if lever.profile and self.ends_sessions]

    @property
    def tenants(self) -> list[str]:
        """The ids of the tenants that it touches."""
        return sorted({grant.tenant for grant in self.targeted} | {id_ for id_, _ in self.unsent})


def plan_revocation(
    target: Target,
    context: Context,
    done: Iterable[LiveGrant] = (),
    *,
    ends_sessions: bool = False,
) -> RevocationPlan:
    """Read what a target covers now, and plan its levers. Raises Transient.

    The grants that are done are left out.
    """
    config, now = context.config.current(), context.now()
    is_done = {grant.full_id for grant in done}
    with snapshot_transaction(context.engine) as connection:
        targeted = [
            grant
            for grant in read_targeted(connection, target, config, now)
            if grant.full_id not in is_done
        ]
        beside = read_beside(connection, targeted, config, now) if targeted else []
        unsent = open_batches(connection, target, config)
        denials = read_live_denials(connection, now)
    levers = plan_levers(target, targeted, beside, config)
    names = {grant.bucket for grant in targeted}
    buckets = [bucket for name, bucket in config.buckets.items() if name in names]
    on_aws = frozenset(bucket.name for bucket in buckets if context.s3.is_aws(bucket))
    return RevocationPlan(
        *(target, config, targeted, levers, unsent, ends_sessions),
        hosts={bucket.name: context.s3.host(bucket) for bucket in buckets},
        on_aws=on_aws,
        earlier=find_earlier(levers, denials, on_aws),
        live_denials=denials,
    )
