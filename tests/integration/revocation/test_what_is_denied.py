"""The objects that a revocation denies in the bucket policy of a real server."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select

from models import Revocation
from tests.integration.conftest import ApplyConfig
from tests.integration.revocation.conftest import (
    KEY,
    OTHER_KEY,
    Revoke,
    as_json,
    issue,
    statements,
    status,
)
from tests.support.builders.messages import (
    POLICY,
    Clock,
    grant_message,
    split_chunks,
    upload_message,
)
from tests.support.builders.services import InProcessService
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction
from worker.devstack.s3 import create_buckets
from worker.errors import Transient
from worker.usecases.cancel import cancel_batch


def with_policies(config: TenantConfig, **policies: Any) -> TenantConfig:
    acme = replace(config.tenants["acme"], policies=policies)
    return TenantConfig(config.buckets, {**config.tenants, "acme": acme})


def test_grants_that_todays_policy_would_refuse_are_denied_with_their_tenant(
    run: Revoke, service: InProcessService, config: TenantConfig, apply_config: ApplyConfig
) -> None:
    grants = issue(service, KEY, OTHER_KEY)
    apply_config(with_policies(config, demo=replace(POLICY, prefixes=("acme/sub/",))))
    result = run("--tenant", "acme", "--yes")
    assert [status(grant) for grant in grants] == [403, 403], result.output
    assert result.exit_code == 0


def test_a_form_whose_client_chooses_the_name_is_denied_by_its_prefix(
    run: Revoke,
    service: InProcessService,
    config: TenantConfig,
    apply_config: ApplyConfig,
    client: Any,
    bucket: str,
) -> None:
    apply_config(with_policies(config, demo=replace(POLICY, free_names=True)))
    [form] = service.issue(upload_message(["acme/in/${filename}"]))["items"]
    run("--grant", form["id"], "--yes")
    [statement] = statements(client, bucket)
    assert f"arn:aws:s3:::{bucket}/acme/in/*" in statement["Resource"]


def test_profiles_with_similar_names_are_denied_each(
    run: Revoke,
    service: InProcessService,
    config: TenantConfig,
    apply_config: ApplyConfig,
    client: Any,
) -> None:
    other = f"revoke-{uuid4().hex[:12]}"
    create_buckets(client, {other})
    client.put_object(Bucket=other, Key=KEY, Body=b"content")
    names = "customer-uploads-eu", "customer-uploads-us"
    first = replace(config.buckets["demo"], name=names[0])
    buckets = {names[0]: first, names[1]: replace(first, name=names[1], bucket=other)}
    policies = {name: replace(POLICY, bucket=name) for name in names}
    moved = with_policies(TenantConfig(buckets, {"acme": config.tenants["acme"]}), **policies)
    apply_config(moved)
    terms = grant_message([KEY])["grant"]
    grants = [issue(service, KEY, grant=terms | {"bucket": name})[0] for name in names]
    result = run("--tenant", "acme", "--yes")
    assert ([status(grant) for grant in grants], result.exit_code) == ([403, 403], 0)


@pytest.mark.parametrize("kind", ["batch", "tenant"])
def test_an_open_batch_without_a_live_grant_is_cancelled(
    kind: str, run: Revoke, service: InProcessService, clock: Clock
) -> None:
    first, second = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    service.issue(first)
    clock.forward(minutes=10)
    result = run(f"--{kind}", first["batch"] if kind == "batch" else "acme", "--yes")
    assert (result.exit_code, "Cancelled: 1 batch." in result.output) == (0, True)
    assert service.issue(second)["refusal"]["code"] == "batch_closed"


def test_a_chunk_that_is_issued_just_before_the_cancellation_is_revoked_too(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    first, second = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    service.issue(first)
    late: list[dict[str, Any]] = []

    def cancel(*arguments: Any) -> Any:
        late.extend(service.issue(second)["items"])
        return cancel_batch(*arguments)

    monkeypatch.setattr("worker.usecases.revocation.revoke.cancel_batch", cancel)
    values = as_json(run("--batch", first["batch"], "--yes", "--json"))
    assert (status(late[0]), values["result"]["left"]) == (403, 0)
    with read_transaction(engine) as connection:
        assert connection.scalars(select(Revocation.grants)).all() == [1, 1]


def test_a_batch_id_of_two_tenants_can_be_revoked_for_one(
    run: Revoke, service: InProcessService
) -> None:
    message = grant_message([KEY])
    service.issue(message)
    service.issue(message | {"tenant": "globex", "items": [{"key": OTHER_KEY}]})
    shown = run("--batch", message["batch"]).output
    assert f"To revoke one tenant's alone: acme/{message['batch']}" in shown
    values = as_json(run("--batch", f"globex/{message['batch']}", "--yes", "--json"))
    assert values["levers"][0]["ends"] == {"globex": 1}
    assert "url" in service.issue(message)["items"][0]


def test_a_revoked_grant_is_not_issued_again_as_a_fresh_one(
    run: Revoke, service: InProcessService
) -> None:
    [grant] = issue(service, KEY)
    run("--grant", grant["id"], "--yes")
    fresh = grant_message([KEY])["batch"]
    message = {"v": 1, "ask": "reissue", "tenant": "acme", "batch": fresh, "of": grant["id"]}
    refusal = service.issue(message | {"requested_by": "support"})["refusal"]
    assert (refusal["code"], refusal["field"]) == ("revoked", "of")


@pytest.mark.parametrize("key", ["acme/a*b", "acme/a?b", "acme/a$b", "acme/a${x}b", "acme/ä b+c"])
def test_an_object_is_denied_whatever_characters_its_key_has(
    key: str, run: Revoke, service: InProcessService, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key=key, Body=b"content")
    grant, other = issue(service, key, OTHER_KEY)
    assert run("--grant", grant["id"], "--yes").exit_code == 0
    assert (status(grant), status(other)) == (403, 200)


def test_a_grant_of_a_worker_whose_clock_is_ahead_is_revoked(
    run: Revoke, service: InProcessService, clock: Clock
) -> None:
    message = grant_message([KEY])
    clock.forward(seconds=5)
    service.issue(message)
    clock.forward(seconds=-5)
    run("--key", f"s3://demo/{KEY}", "--yes")
    assert service.issue(message)["items"][0]["code"] == "revoked"


def test_links_are_denied_though_their_batch_cannot_be_cancelled(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise Transient("the database is away")

    monkeypatch.setattr("worker.usecases.revocation.revoke.cancel_batch", fail)
    first, _ = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    [grant] = service.issue(first)["items"]
    result = run("--batch", first["batch"], "--yes")
    assert (result.exit_code, status(grant)) == (1, 403)
    assert "not all open batches are cancelled: the database is away" in result.output
