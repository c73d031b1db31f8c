"""Links that are revoked in the bucket policy of a real server."""

import json
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, select

from models import Denial, Leaf, Revocation
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
    Clock,
    grant_message,
    put_message,
    split_chunks,
)
from tests.support.builders.services import InProcessService
from valetkey.wire.pending import build_bundle, build_pending_message
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction
from worker.usecases.upkeep.denials import keep_denials


def test_a_revoked_link_is_refused_and_the_others_are_not(
    run: Revoke, service: InProcessService
) -> None:
    revoked, other = issue(service, KEY, OTHER_KEY)
    result = run("--grant", revoked["id"], "--yes", "--reason", "case 4711")
    assert (result.exit_code, status(revoked), status(other)) == (0, 403, 200)
    assert "Proven: storage served a link to one of the objects before" in result.output


def test_without_yes_the_blast_radius_is_shown_and_nothing_changed(
    run: Revoke, service: InProcessService, engine: Engine
) -> None:
    [grant] = issue(service, KEY)
    issue(service, KEY)
    issue(service, KEY, tenant="globex")
    values = as_json(run("--grant", grant["id"], "--json"))
    deny = next(lever for lever in values["levers"] if lever["lever"] == "deny")
    assert (deny["ends"], deny["others"]) == ({"acme": 1}, {"acme": 1, "globex": 1})
    assert values["result"] is None
    assert status(grant) == 200
    with read_transaction(engine) as connection:
        assert not connection.execute(select(Revocation)).all()
    assert "Nothing was changed. To do it, add --yes." in run("--grant", grant["id"]).output


def test_a_revocation_is_in_the_tree_of_each_tenant_that_it_touched(
    run: Revoke, service: InProcessService, engine: Engine
) -> None:
    issue(service, KEY)
    issue(service, KEY, tenant="globex")
    run("--key", f"s3://demo/{KEY}", "--yes", "--reason", "case 4711")
    with read_transaction(engine) as connection:
        rows = connection.execute(select(Revocation.tenant, Revocation.reason)).all()
        leaves = connection.scalars(select(Leaf.tenant).where(Leaf.kind == "revocation"))
        assert sorted(rows) == [("acme", "case 4711"), ("globex", "case 4711")]
        assert sorted(leaves) == ["acme", "globex"]


def test_a_revoked_grant_is_not_signed_again(run: Revoke, service: InProcessService) -> None:
    message = grant_message([KEY, OTHER_KEY])
    first = service.issue(message)["items"]
    run("--grant", first[0]["id"], "--yes")
    again = service.issue(message)["items"]
    assert (again[0]["code"], again[1]["url"]) == ("revoked", first[1]["url"])


def test_a_grant_that_is_issued_after_the_revocation_is_signed_again(
    run: Revoke, service: InProcessService, clock: Clock
) -> None:
    issue(service, KEY)
    run("--key", f"s3://demo/{KEY}", "--yes")
    clock.forward(hours=1)  # the command's own clock is not the service's
    message = grant_message([KEY])
    service.issue(message)
    assert "url" in service.issue(message)["items"][0]


def test_what_a_revoked_batch_has_not_issued_is_cancelled(
    run: Revoke, service: InProcessService
) -> None:
    first, second = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    service.issue(first)
    values = as_json(run("--batch", first["batch"], "--yes", "--json"))
    assert values["result"]["cancelled"] == 1
    assert service.issue(second)["refusal"]["code"] == "batch_closed"


def test_results_that_nobody_has_read_are_deleted(
    run: Revoke, service: InProcessService, valkey_url: str
) -> None:
    [grant] = issue(service, KEY)
    key = f"celery-task-meta-{grant['id'].rpartition('.')[0]}.0"
    with redis.Redis.from_url(valkey_url) as results:
        results.set(key, "sealed")
        values = as_json(run("--grant", grant["id"], "--yes", "--json"))
        assert (values["result"]["unread_results_deleted"], results.exists(key)) == (1, 0)


def test_the_results_of_bundles_are_deleted_as_any_may_have_a_revoked_grant(
    run: Revoke, service: InProcessService, valkey_url: str
) -> None:
    [grant] = issue(service, KEY)
    messages = [build_pending_message(name, grant_message([name])) for name in "ab"]
    key = f"celery-task-meta-{build_bundle(messages).task_id}"
    with redis.Redis.from_url(valkey_url) as results:
        results.mset({key: "sealed", "celery-task-meta-other": "sealed"})
        run("--grant", grant["id"], "--yes")
        assert [results.exists(name) for name in (key, "celery-task-meta-other")] == [0, 1]


def test_a_prefix_is_denied_as_a_whole(run: Revoke, service: InProcessService) -> None:
    grants = issue(service, KEY, OTHER_KEY)
    assert run("--prefix", "s3://demo/acme/", "--yes").exit_code == 0
    assert [status(grant) for grant in grants] == [403, 403]


def test_the_statement_is_removed_when_the_last_grant_has_lapsed(
    run: Revoke,
    service: InProcessService,
    clock: Clock,
    client: Any,
    bucket: str,
    engine: Engine,
) -> None:
    ours = {"Sid": "Ours", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteBucket"}
    policy = {"Version": "2012-10-17", "Statement": [ours | {"Resource": f"arn:aws:s3:::{bucket}"}]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    [grant] = issue(service, KEY)
    run("--grant", grant["id"], "--yes")
    assert len(statements(client, bucket)) == 2
    clock.forward(seconds=299)
    keep_denials(service.context)
    assert len(statements(client, bucket)) == 2
    clock.forward(seconds=2)
    assert keep_denials(service.context)["denials"] == 1
    assert [each["Sid"] for each in statements(client, bucket)] == ["Ours"]
    with read_transaction(engine) as connection:
        assert not connection.execute(select(Denial)).all()


def test_an_upload_is_denied_and_not_tried(
    run: Revoke, service: InProcessService, client: Any, bucket: str
) -> None:
    [put] = service.issue(put_message({"acme/new.png": 3}))["items"]
    result = run("--grant", put["id"], "--yes")
    assert (result.exit_code, "Error: not proven for 1 of kind put" in result.output) == (1, True)
    request = urllib.request.Request(  # noqa: S310 - our own link
        put["url"], b"abc", put["headers"], method="PUT"
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)  # noqa: S310 - our own link
    assert client.list_objects_v2(Bucket=bucket, Prefix="acme/new").get("KeyCount") == 0


def test_storage_that_cannot_deny_is_named_and_the_grant_is_still_not_signed_again(
    run: Revoke, service: InProcessService, config: TenantConfig, apply_config: ApplyConfig
) -> None:
    message = grant_message([KEY])
    [grant] = service.issue(message)["items"]
    r2 = replace(config.buckets["demo"], provider="r2")
    apply_config(TenantConfig({"demo": r2}, config.tenants))
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, status(grant)) == (1, 200)
    assert "not done by this command: R2 has no bucket policies" in result.output
    assert service.issue(message)["items"][0]["code"] == "revoked"
