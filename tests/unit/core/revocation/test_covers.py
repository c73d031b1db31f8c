from datetime import UTC, datetime

import pytest

from worker.core.revocation.targets import RecordedRevocation, RevokedItem, Target, covers

ITEM = RevokedItem("b", 7, "demo", "real", "acme/a.pdf")


def revocation(*target: str | None, storage: str | None = None) -> RecordedRevocation:
    at = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    return RecordedRevocation(Target(*target), storage, "alice", None, at)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value", "other"),
    [("grant", "b.7", "b.17"), ("batch", "b", "c")],
)
def test_an_id_covers_its_grants_alone(kind: str, value: str, other: str) -> None:
    assert covers(revocation(kind, value), ITEM)
    assert not covers(revocation(kind, other), ITEM)


@pytest.mark.parametrize(
    ("kind", "value", "other"),
    [("key", "acme/a.pdf", "acme/a"), ("prefix", "acme/a", "acme/b")],
)
def test_objects_are_covered_by_their_keys_in_their_bucket(
    kind: str, value: str, other: str
) -> None:
    assert covers(revocation(kind, value, "second", storage="real"), ITEM)
    assert not covers(revocation(kind, value, "second", storage="other"), ITEM)
    assert not covers(revocation(kind, other, "demo", storage="real"), ITEM)


def test_an_object_is_covered_in_its_profile_wherever_that_leads_today() -> None:
    target = revocation("key", "acme/a.pdf", "demo", storage="real")
    assert covers(target, ITEM._replace(storage="moved"))
    assert covers(target, ITEM._replace(storage=None))


def test_a_removed_profile_leads_to_no_bucket_of_another() -> None:
    target = revocation("key", "acme/a.pdf", "second")
    assert not covers(target, ITEM._replace(storage=None))


def test_a_tenant_covers_everything_and_credentials_nothing() -> None:
    assert covers(revocation("tenant", "acme"), ITEM)
    assert not covers(revocation("credentials", "AKIDEXAMPLE"), ITEM)
