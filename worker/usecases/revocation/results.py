"""The result of a revocation: what each step did, and what nobody knows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from worker.core.revocation.levers import Lever
from worker.usecases.revocation.plan import RevocationPlan
from worker.usecases.revocation.proof import Proof


@dataclass(slots=True)
class RevocationResult:
    """The outcome of a revocation: its id, and a problem for each step that failed.

    ended are the tenant ids and ids of grants that a lever ended, and ended_roles the moment of
    each role whose sessions were ended. cancelled counts batches, and unread results that were
    deleted from the broker. proofs has the result of each denied bucket in which a download can be
    tried, and session_proofs that of each role. unproven counts the ended grants of kinds that
    cannot be tried, by kind.
    """

    revocation_id: str
    grants: int = 0
    ended: set[tuple[str, str]] = field(default_factory=set)
    denied: list[Lever] = field(default_factory=list)
    ended_roles: dict[str, datetime] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    cancelled: int = 0
    unread: int = 0
    proofs: dict[str, Proof] = field(default_factory=dict)
    session_proofs: dict[str, Proof] = field(default_factory=dict)
    unproven: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """The number of grants that no lever ended."""
        return self.grants - len(self.ended)

    @property
    def is_proven(self) -> bool | None:
        """True if all is proven, False if storage still accepts a link, and None otherwise."""
        if "accepted" in self._proofs:
            return False
        return True if self._proofs == {"proven"} and not self.unproven else None

    @property
    def is_complete(self) -> bool:
        """True if nothing failed, and all is proven or was done by an earlier revocation."""
        is_proven = self._proofs <= {"proven", "repeated"} and not self.unproven
        return not self.problems and not self.left and is_proven

    @property
    def _proofs(self) -> set[Proof]:
        return {*self.proofs.values(), *self.session_proofs.values()}


@dataclass(frozen=True, slots=True)
class Author:
    """The author of a revocation, and the reason."""

    name: str
    reason: str | None


def count_unproven(plans: Iterable[RevocationPlan], result: RevocationResult) -> Counter[str]:
    """Count the ended grants that nothing proves to be ended, by kind.

    A link to an upload cannot be tried without storing an object, and storage may deny downloads
    alone. The proven end of a role's sessions is that of all links that they signed.
    """
    unproven: Counter[str] = Counter()
    for plan in plans:
        proven: set[tuple[str, str]] = set()
        for lever in plan.session_ends:
            if result.session_proofs.get(lever.where) == "proven":
                proven |= lever.targets
        ended = result.ended - proven
        unproven.update(
            grant.kind
            for grant in plan.targeted
            if grant.kind != "download" and grant.full_id in ended
        )
    return unproven
