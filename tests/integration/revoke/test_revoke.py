"""Links that are revoked in the bucket policy of a real server."""

from typing import Any

import pytest
import redis

from models import Leaf, Revocation
from tests.integration.revoke.conftest import KEY, OTHER_KEY, Links, check
from tests.support.builders.messages import grant_message, put_message, split_chunks
from tests.support.s3.http_requests import Request, send, status
from valetkey.wire.pending import build_bundle, build_pending_message
from worker.cancel.cancellation import cancel_batch
from worker.dev.embedded_servers import Storage
from worker.errors import Malformed, Transient


def test_a_revoked_link_is_refused_and_the_others_are_not(links: Links) -> None:
    revoked, other = links.grant(KEY, OTHER_KEY)
    result = links.revoke(revoked, "--reason", "case 4711")
    assert (result.exit_code, status(revoked), status(other)) == (0, 403, 200)
    assert "Proven: storage served a link to one of the objects before" in result.output


def test_without_yes_the_blast_radius_is_shown_and_nothing_changed(links: Links) -> None:
    [grant] = links.grant(KEY)
    links.grant(KEY)
    links.grant(KEY, tenant="globex")
    values = links.values("--grant", grant["id"])
    deny = next(lever for lever in values["levers"] if lever["lever"] == "deny")
    assert (deny["ends"], deny["others"]) == ({"acme": 1}, {"acme": 1, "globex": 1})
    assert values["result"] is None
    assert status(grant) == 200
    assert links.rows(Revocation.target) == []
    assert "Nothing was changed. To do it, add --yes." in links.run("--grant", grant["id"]).output


def test_a_revocation_is_in_the_tree_of_each_tenant_that_it_touched(links: Links) -> None:
    links.grant(KEY)
    links.grant(KEY, tenant="globex")
    links.run("--key", f"s3://demo/{KEY}", "--yes", "--reason", "case 4711")
    rows = links.rows(Revocation.tenant, Revocation.reason)
    assert rows == [("acme", "case 4711"), ("globex", "case 4711")]
    leaves = [tenant for kind, tenant in links.rows(Leaf.kind, Leaf.tenant) if kind == "revocation"]
    assert leaves == ["acme", "globex"]


def test_a_grant_that_is_issued_after_the_revocation_is_signed_again(links: Links) -> None:
    links.grant(KEY)
    links.run("--key", f"s3://demo/{KEY}", "--yes")
    links.clock.forward(hours=1)  # the command's own clock is not the service's
    message = grant_message([KEY])
    links.issue(message)
    assert "url" in links.issue(message)["items"][0]


def test_a_grant_of_a_worker_whose_clock_is_ahead_is_revoked(links: Links) -> None:
    message = grant_message([KEY])
    links.clock.forward(seconds=5)
    links.issue(message)
    links.clock.forward(seconds=-5)
    links.run("--key", f"s3://demo/{KEY}", "--yes")
    assert links.issue(message)["items"][0]["code"] == "revoked"


def test_a_revoked_grant_is_explained_as_it_is_decided(links: Links) -> None:
    message = grant_message([KEY])
    links.revoke(links.issue(message)["items"][0])
    *_, items = links.issue(message | {"ask": "explain"})["rules"]
    assert (items["rule"], items["refusal"]["code"]) == ("items", "revoked")


def test_a_revoked_grant_is_not_issued_again_as_a_fresh_one(links: Links) -> None:
    [grant] = links.grant(KEY)
    links.revoke(grant)
    fresh = grant_message([KEY])["batch"]
    message = {"v": 1, "ask": "reissue", "tenant": "acme", "batch": fresh, "of": grant["id"]}
    refusal = links.issue(message | {"requested_by": "support"})["refusal"]
    assert (refusal["code"], refusal["field"]) == ("revoked", "of")


@pytest.mark.parametrize("kind", ["batch", "tenant"])
def test_an_open_batch_without_a_live_grant_is_cancelled(kind: str, links: Links) -> None:
    first, second = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    links.issue(first)
    links.clock.forward(minutes=10)
    result = links.run(f"--{kind}", first["batch"] if kind == "batch" else "acme", "--yes")
    check(result, 0, "Cancelled: 1 batch.")
    assert links.issue(second)["refusal"]["code"] == "batch_closed"


def test_a_chunk_that_is_issued_just_before_the_cancellation_is_revoked_too(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    links.issue(first)
    late: list[dict[str, Any]] = []

    def cancel(*arguments: Any) -> Any:
        late.extend(links.issue(second)["items"])
        return cancel_batch(*arguments)

    monkeypatch.setattr("worker.revoke.revocation.cancel_batch", cancel)
    values = links.values("--batch", first["batch"], "--yes")
    assert (status(late[0]), values["result"]["left"]) == (403, 0)
    assert links.rows(Revocation.grants) == [(1,), (1,)]


def test_links_are_denied_though_their_batch_cannot_be_cancelled(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise Transient("the database is away")

    monkeypatch.setattr("worker.revoke.revocation.cancel_batch", fail)
    first, _ = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    [grant] = links.issue(first)["items"]
    result = links.run("--batch", first["batch"], "--yes")
    assert (result.exit_code, status(grant)) == (1, 403)
    assert "not all open batches are cancelled: the database is away" in result.output


def test_a_refused_denial_that_the_database_keeps_does_not_end_a_revocation(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise Malformed("storage refuses the change")

    def fail(*_: Any) -> None:
        raise Transient("the database is away")

    monkeypatch.setattr("worker.revoke.revocation.keep_statements", refuse)
    monkeypatch.setattr("worker.revoke.revocation.delete_denials", fail)
    first, second = split_chunks(grant_message([KEY, OTHER_KEY]), 1)
    links.issue(first)
    result = links.run("--batch", first["batch"], "--yes")
    check(result, 1, "storage refuses the change")
    assert "the upkeep worker tries again: the database is away" in " ".join(result.output.split())
    assert links.issue(second)["refusal"]["code"] == "batch_closed"


def test_a_batch_id_of_two_tenants_can_be_revoked_for_one(links: Links) -> None:
    message = grant_message([KEY])
    links.issue(message)
    links.issue(message | {"tenant": "globex", "items": [{"key": OTHER_KEY}]})
    shown = links.run("--batch", message["batch"]).output
    assert f"To revoke one tenant's alone: acme/{message['batch']}" in shown
    values = links.values("--batch", f"globex/{message['batch']}", "--yes")
    assert values["levers"][0]["ends"] == {"globex": 1}
    assert "url" in links.issue(message)["items"][0]


@pytest.mark.parametrize("is_bundle", [False, True])
def test_results_that_may_have_a_revoked_grant_and_nobody_has_read_are_deleted(
    links: Links, valkey_url: str, *, is_bundle: bool
) -> None:
    [grant] = links.grant(KEY)
    name = f"{grant['id'].rpartition('.')[0]}.0"
    if is_bundle:  # it may have any grant
        name = build_bundle([build_pending_message(x, grant_message([x])) for x in "ab"]).task_id
    keys = [f"celery-task-meta-{name}", "celery-task-meta-other"]
    with redis.Redis.from_url(valkey_url) as results:
        results.mset(dict.fromkeys(keys, "sealed"))
        values = links.values("--grant", grant["id"], "--yes")
        assert [results.exists(key) for key in keys] == [0, 1]
    assert values["result"]["unread_results_deleted"] == 1


def test_an_upload_is_denied_and_not_tried(links: Links) -> None:
    [put] = links.issue(put_message({"acme/new.png": 3}))["items"]
    check(links.revoke(put), 1, "Error: not proven for 1 of kind put")
    assert send(Request("PUT", put["url"], put["headers"], b"abc")).status == 403
    found = links.client.list_objects_v2(Bucket=links.bucket, Prefix="acme/new")
    assert found.get("KeyCount") == 0


def test_a_grant_that_storage_cannot_deny_is_named_and_not_signed_again(links: Links) -> None:
    message = grant_message([KEY])
    [grant] = links.issue(message)["items"]
    links.change_bucket(provider="r2")
    result = links.revoke(grant)
    assert (result.exit_code, status(grant)) == (1, 200)
    assert "not done by this command: R2 has no bucket policies" in result.output
    assert links.issue(message)["items"][0]["code"] == "revoked"


@pytest.mark.parametrize("setting", ["VALETKEY_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"])
def test_a_profile_without_an_endpoint_is_denied_where_its_default_leads(
    setting: str, links: Links, seaweed: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    [grant] = links.grant(KEY)
    links.change_bucket(endpoint=None, provider="aws")
    monkeypatch.setenv(setting, seaweed.endpoint)
    result = links.revoke(grant)
    assert (result.exit_code, status(grant)) == (0, 403), result.output
