"""What applying a declaration comes to, decided before anything is touched."""

from datetime import datetime
from typing import Any, NamedTuple

from worker.core.difference import Change, difference
from worker.core.losses import Loss, UnderWay, losses
from worker.core.risks import Risk, risks
from worker.core.tenancy import Declared


class Plan(NamedTuple):
    """What changes, what is lost by it, and what to know of what is declared then."""

    changes: list[Change]
    losses: list[Loss]
    risks: list[Risk]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        named = {name: [one._asdict() for one in getattr(self, name)] for name in self._fields}
        return named | {"trusts_queue": [r.tenant for r in self.risks if r.code == "trusts_queue"]}


def plan(before: Declared, after: Declared, under_way: UnderWay, now: datetime) -> Plan:
    """Plan to have after declared instead of before."""
    return Plan(difference(before, after), losses(before, after, under_way, now), risks(after, now))
