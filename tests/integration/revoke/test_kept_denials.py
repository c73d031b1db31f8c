"""Statements in bucket policies, which the upkeep keeps and removes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from models import Denial
from tests.integration.revoke.conftest import KEY, OTHER_KEY, Links
from tests.support.builders.messages import Clock, grant_message
from tests.support.s3.http_requests import status
from valetkey.units import format_utc
from worker.base.jobs import JobRun
from worker.broker.queues import RESULT_INDEX
from worker.context import Context
from worker.issue.cleanup import clean_up
from worker.revoke import kept_statements
from worker.revoke.kept_statements import keep_denials, keep_statements
from worker.revoke.revocation_plan import plan_revocation
from worker.revoke.revocation_targets import Target
from worker.rules.tenant_config import Bucket, TenantConfig

ENDS = (Denial.bucket, Denial.lapses_at)


@pytest.fixture
def grant(links: Links) -> dict[str, Any]:
    """A link that is revoked."""
    [grant] = links.grant(KEY)
    links.revoke(grant)
    return grant


def test_a_statement_denies_the_last_grant_until_it_expires_and_is_removed_then(
    links: Links, clock: Clock
) -> None:
    terms = {"kind": "download", "bucket": "demo"}
    [last] = links.grant(KEY, grant=terms | {"expires_in": 900})
    links.grant(OTHER_KEY, grant=terms | {"expires_in": 300})
    assert links.run("--tenant", "acme", "--yes").exit_code == 0
    [before] = links.statements()
    [(lapses_at,)] = links.rows(Denial.lapses_at)
    clock.forward(seconds=301)
    links.client.delete_bucket_policy(Bucket=links.bucket)
    assert keep_denials(links.context) == {"denials": 0}
    assert (links.statements(), status(last)) == ([before], 403)
    clock.forward(seconds=600)
    assert keep_denials(links.context) == {"denials": 1}
    assert (links.statements(), links.rows(Denial.sid), status(last)) == ([], [], 200)
    assert last["expires_at"] == format_utc(lapses_at)


def test_the_release_of_grants_calls_no_storage(links: Links, grant: dict[str, Any]) -> None:
    links.client.delete_bucket_policy(Bucket=links.bucket)
    clean_up(links.context)
    assert status(grant) == 200


@pytest.mark.usefixtures("grant")
def test_keeping_denials_reports_progress_after_each_bucket(links: Links) -> None:
    moments = iter(range(10))
    run = JobRun(lambda: next(moments))
    keep_denials(links.context, run)
    assert (run.idle_seconds, next(moments)) == (1, 3)


@pytest.mark.usefixtures("grant")
def test_a_statement_that_cannot_be_kept_is_logged_once(links: Links) -> None:
    links.change_bucket(bucket=links.new_bucket())
    with capture_logs() as logs:
        for _ in range(3):
            keep_denials(links.context)
    assert [each["log_level"] for each in logs if each["event"] == "denials_left"] == ["warning"]


@pytest.mark.usefixtures("grant")
def test_a_denial_stays_known_until_a_profile_leads_to_its_bucket(links: Links) -> None:
    moved = links.change_bucket(bucket=links.new_bucket())
    links.clock.forward(hours=2)
    assert keep_denials(links.context)["denials"] == 0
    assert (len(links.statements()), len(links.rows(Denial.sid))) == (1, 1)
    old = replace(links.config.buckets["demo"], name="old")
    links.apply(TenantConfig({"demo": moved, "old": old}, links.config.tenants))
    assert keep_denials(links.context)["denials"] == 1
    assert (links.statements(), links.rows(Denial.sid)) == ([], [])


def test_a_revoked_object_stays_revoked_in_a_profile_that_moved(links: Links) -> None:
    message = grant_message([KEY])
    links.issue(message)
    links.run("--key", f"s3://demo/{KEY}", "--yes")
    links.change_bucket(bucket=links.new_bucket())
    assert links.issue(message)["items"][0]["code"] == "revoked"


def test_a_statement_ends_with_the_grants_of_its_own_bucket(links: Links) -> None:
    demo = links.config.buckets["demo"]
    links.apply_profiles(demo, replace(demo, name="other", bucket=links.new_bucket()))
    for bucket, seconds in ("demo", 300), ("other", 900):
        links.grant(KEY, grant={"kind": "download", "bucket": bucket, "expires_in": seconds})
    assert links.run("--tenant", "acme", "--yes").exit_code == 0
    ends = {bucket: lapses_at - links.clock() for bucket, lapses_at in links.rows(*ENDS)}
    left = {name: round(end.total_seconds(), -1) for name, end in ends.items()}
    assert left == {"demo": 300, "other": 900}
    # On AWS its condition ends then: it is no substitute for the denial of a later grant.
    links.clock.forward(seconds=200)
    [late] = links.grant(OTHER_KEY)
    assert plan_revocation(Target("grant", late["id"]), links.context).earlier == {}
    links.clock.forward(seconds=101)
    keep_denials(links.context)
    assert status(links.grant(KEY)[0]) == 200


@pytest.mark.usefixtures("grant")
def test_a_policy_that_nothing_was_written_for_stops_no_other_bucket(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    [sid] = [each["Sid"] for each in links.statements()]
    links.copy_denial(sid="A", storage="")
    links.client.delete_bucket_policy(Bucket=links.bucket)

    def keep(bucket: Bucket, storage: str, context: Context) -> Mapping[str, str]:
        if not storage:
            raise TypeError
        return keep_statements(bucket, storage, context)

    monkeypatch.setattr(kept_statements, "keep_statements", keep)
    monkeypatch.setattr(TenantConfig, "find_bucket", lambda *_: links.config.buckets["demo"])
    keep_denials(links.context)
    assert [each["Sid"] for each in links.statements()] == [sid]


def test_a_name_in_the_index_of_results_that_is_no_text_stops_no_revocation(
    links: Links, valkey_url: str
) -> None:
    [grant] = links.grant(KEY)
    with redis.Redis.from_url(valkey_url) as store:
        store.sadd(f"{RESULT_INDEX}{grant['id'].partition('.')[0]}", b"\xff")
    assert links.revoke(grant).exit_code == 0
