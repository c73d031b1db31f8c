from datetime import UTC, datetime

import pytest

from worker.revoke.revocation_targets import RecordedRevocation, Target, covers
from worker.rules.issued_grants import IssuedItem

ITEM = IssuedItem("b", 7, "demo", "real", "acme/a.pdf")


def revocation(*target: str | None, storage: str | None = None) -> RecordedRevocation:
    at = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    return RecordedRevocation(Target(*target), storage, "alice", None, at)  # type: ignore[arg-type]


HERE = revocation("key", "acme/a.pdf", "demo", storage="real")
SECOND = revocation("key", "acme/a.pdf", "second")
COVERED = {
    "its id": (revocation("grant", "b.7"), ITEM),
    "its batch": (revocation("batch", "b"), ITEM),
    "its key in its bucket": (revocation("key", "acme/a.pdf", "second", storage="real"), ITEM),
    "a prefix in its bucket": (revocation("prefix", "acme/a", "second", storage="real"), ITEM),
    "its profile, wherever it leads": (HERE, ITEM._replace(storage="moved")),
    "its profile, which was removed": (HERE, ITEM._replace(storage=None)),
    "its tenant": (revocation("tenant", "acme"), ITEM),
}
NOT_COVERED = {
    "another id": (revocation("grant", "b.17"), ITEM),
    "another batch": (revocation("batch", "c"), ITEM),
    "its key in another bucket": (revocation("key", "acme/a.pdf", "second", storage="other"), ITEM),
    "a prefix in another bucket": (revocation("prefix", "acme/", "second", storage="other"), ITEM),
    "another key": (revocation("key", "acme/a", "demo", storage="real"), ITEM),
    "another prefix": (revocation("prefix", "acme/b", "demo", storage="real"), ITEM),
    "two removed profiles": (SECOND, ITEM._replace(storage=None)),
    "credentials": (revocation("credentials", "AKIDEXAMPLE"), ITEM),
}


@pytest.mark.parametrize(("recorded", "item"), COVERED.values(), ids=COVERED)
def test_an_item_is_covered_by(recorded: RecordedRevocation, item: IssuedItem) -> None:
    assert covers(recorded, item)


@pytest.mark.parametrize(("recorded", "item"), NOT_COVERED.values(), ids=NOT_COVERED)
def test_an_item_is_not_covered_by(recorded: RecordedRevocation, item: IssuedItem) -> None:
    assert not covers(recorded, item)
