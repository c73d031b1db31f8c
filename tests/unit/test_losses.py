from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.core.losses import Loss, UnderWay, losses
from worker.core.tenancy import Declared, Endpoint, Key, Tenant

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
KEY = Key("billing", "S" * 43, "E" * 43)
ACME = Tenant(
    "acme",
    keys={"billing": KEY, "idle": Key("idle", "T" * 43, "F" * 43)},
    endpoints={name: Endpoint(name, "https://example.com/", "env:A") for name in ("a", "b")},
)
BEFORE = Declared(tenants={"acme": ACME, "globex": Tenant("globex", "queue")})
UNDER_WAY = UnderWay(
    grants={("acme", "billing"): 7, ("acme", None): 2, ("globex", None): 5},
    webhooks={("acme", "a"): 3},
)
PATH = "tenants.acme.keys.billing"


def lost(**acme: object) -> list[Loss]:
    changed = replace(ACME, **acme)  # type: ignore[arg-type]
    after = replace(BEFORE, tenants={**BEFORE.tenants, "acme": changed})
    return losses(BEFORE, after, UNDER_WAY, NOW)


def with_key(key: Key) -> list[Loss]:
    return lost(keys={**ACME.keys, "billing": key})


def test_what_stays_is_no_loss() -> None:
    assert lost() == []


def test_a_removed_tenant_has_all_its_grants_and_webhooks() -> None:
    after = replace(BEFORE, tenants={"globex": BEFORE.tenants["globex"]})
    assert losses(BEFORE, after, UNDER_WAY, NOW) == [Loss("tenants.acme", 9, 3)]


def test_a_removed_tenant_is_a_loss_even_where_nothing_is_under_way() -> None:
    after = replace(BEFORE, tenants={"acme": ACME})
    assert losses(BEFORE, after, UnderWay({}, {}), NOW) == [Loss("tenants.globex", 0, 0)]


@pytest.mark.parametrize(
    "key",
    [
        replace(KEY, revoked=True),
        replace(KEY, expires=NOW),
        replace(KEY, sign="U" * 43),
        replace(KEY, seal="U" * 43),
    ],
)
def test_a_key_that_is_ended_or_replaced_has_its_grants(key: Key) -> None:
    assert with_key(key) == [Loss(PATH, 7, 0)]


def test_a_removed_key_has_its_grants() -> None:
    assert lost(keys={"idle": ACME.keys["idle"]}) == [Loss(PATH, 7, 0)]


def test_a_key_that_has_no_live_grants_is_no_loss() -> None:
    assert lost(keys={"billing": KEY}) == []


def test_a_key_that_will_expire_later_is_no_loss() -> None:
    assert with_key(replace(KEY, expires=NOW + timedelta(seconds=1))) == []


def test_a_key_that_was_of_no_use_before_is_not_lost_by_being_revoked() -> None:
    before = replace(ACME, keys={"billing": replace(KEY, expires=NOW)})
    after = replace(ACME, keys={"billing": replace(KEY, expires=NOW, revoked=True)})
    found = losses(
        Declared(tenants={"acme": before}), Declared(tenants={"acme": after}), UNDER_WAY, NOW
    )
    assert found == []


def test_a_removed_endpoint_has_its_webhooks_and_is_a_loss_only_with_some() -> None:
    assert lost(endpoints={}) == [Loss("tenants.acme.endpoints.a", 0, 3)]


def test_a_loss_is_one_readable_line() -> None:
    assert str(Loss(PATH, 1_234, 0)) == f"{PATH}: 1,234 live grants, 0 pending webhooks"
