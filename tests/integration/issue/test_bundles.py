"""A bundle of requests has the outcomes, rows and charges of the same requests one by one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import IntegrityError

from models import Base, Batch, Chunk, Delivery, Grant, Leaf, RejectionCount, Reservation, Usage
from tests.support.builders import services
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    about_batch,
    download_message,
    grant_message,
    multipart_message,
    put_message,
    upload_message,
)
from tests.support.builders.services import InProcessService, other_processes
from tests.support.crypto.tenants import ACME_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message
from tests.support.features import needs
from tests.support.servers.databases import migrated_file
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.errors import Transient
from worker.issue import feature_check, issuer
from worker.issue.chunk_signing import first_signing_context
from worker.rules.tenant_config import Quota, TenantConfig

TABLES = (Batch, Chunk, Grant, Usage, Reservation, Delivery, Leaf, RejectionCount)
QUOTAS = (Quota("grants", "day", 7, warn_at=2), Quota("upload_bytes", "live", 1_200_000))
CONFIG = config_with_keys(ACME_KEY, quotas=QUOTAS)


def bundle(*messages: Any, **changes: Any) -> dict[str, Any]:
    """Return a bundle of these messages, with changed header fields."""
    return {"v": 1, "ask": "bundle", "tenant": "acme", "messages": list(messages)} | changes


def issue_all(service: InProcessService, clock: Clock, *messages: Any) -> list[dict[str, Any]]:
    values = service.issue(sign_message(bundle(*messages), ACME_KEY, clock()))
    assert values["status"] == "bundled"
    outcomes: list[dict[str, Any]] = values["replies"]
    return outcomes


def issue_each(service: InProcessService, clock: Clock, *messages: Any) -> list[dict[str, Any]]:
    return [service.issue(sign_message(message, ACME_KEY, clock())) for message in messages]


def refusal_codes(outcomes: list[dict[str, Any]]) -> list[str | None]:
    """Return the code of each outcome that refuses its whole batch."""
    return [outcome.get("refusal", {}).get("code") for outcome in outcomes]


def rows(service: InProcessService, *tables: type[Base]) -> list[dict[str, Any]]:
    """Return all rows of these tables, without the digest of the token of a message alone."""
    rows = [row for table in tables for row in service.rows(table)]
    return [{**row._mapping, "last_digest": None} for row in rows]


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(CONFIG)
    return service


@pytest.fixture
def alone(tmp_path: Path, clock: Clock) -> Iterator[InProcessService]:
    """The service over another database with the same tenants: same ids and numbers."""
    engine = create_database_engine(migrated_file(tmp_path / "alone.db"))
    service = services.build_service(engine, S3Clients(), clock)
    service.apply(CONFIG)
    yield service
    engine.dispose()


def mixed_messages() -> list[Any]:
    """Return requests of each kind, of which some are refused: whole, in part, or as malformed."""
    return [
        grant_message(["acme/a.pdf"]),
        grant_message(["acme/b.pdf", "globex/c.pdf"], callback="hook"),
        upload_message(["acme/d.png"]),
        grant_message(["acme/x"], deadline="2020-01-01T00:00:00Z"),
        upload_message(["acme/too.png", "acme/many.png"]),  # 1,500,000 bytes with the upload above
        put_message({"acme/e.png": 700}),
        grant_message(["acme/1", "acme/2", "acme/3", "acme/4", "acme/5"]),  # more than are left
        grant_message(["acme/f.pdf"], requested_by=""),
        grant_message(["acme/g.pdf"]),
    ]


@needs("webhooks")
def test_a_bundle_is_decided_as_its_messages_one_by_one(
    service: InProcessService,
    alone: InProcessService,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.rules.annotations.token_bytes", bytes)  # salts without randomness
    messages = mixed_messages()
    *one_by_one, last, before_last = issue_each(alone, clock, *messages[:-2], *messages[:-3:-1])
    one_by_one += [before_last, last]
    together = issue_all(service, clock, *messages)
    assert refusal_codes(together) == [
        *(None, None, None, "deadline_passed", "quota_exceeded", None, "quota_exceeded"),
        *("malformed", None),
    ]
    assert together == one_by_one
    assert rows(service, *TABLES) == rows(alone, *TABLES)
    assert service.is_log_sound()


def test_a_bundle_delivered_again_has_the_same_grants_and_charges_nothing(
    service: InProcessService, clock: Clock
) -> None:
    messages = mixed_messages()
    first = issue_all(service, clock, *messages)
    before = rows(service, *TABLES[:-1])
    clock.forward(seconds=20)
    again = issue_all(service, clock, *messages)
    assert [outcome["items"] for outcome in again] == [outcome["items"] for outcome in first]
    assert refusal_codes(again) == refusal_codes(first)
    assert rows(service, *TABLES[:-1]) == before


@needs("cancel")
def test_batches_that_are_known_are_answered_by_what_was_committed_beside_new_ones(
    service: InProcessService, clock: Clock
) -> None:
    known, used_before, cancelled, new = (grant_message() for _ in range(4))
    (first,) = issue_each(service, clock, known)
    issue_each(service, clock, used_before)
    cancel = about_batch(cancelled["batch"], "cancel", requested_by="tests")
    issue_each(service, clock, cancel)
    conflict = used_before | {"items": [{"key": "acme/other"}]}
    other = new | {"items": [{"key": "acme/other"}]}
    outcomes = issue_all(service, clock, known, conflict, new, cancelled, new, other)
    expected = [None, "batch_conflict", None, "batch_closed", None, "batch_conflict"]
    assert refusal_codes(outcomes) == expected
    assert outcomes[0]["items"] == first["items"]
    assert outcomes[2] == outcomes[4]
    assert [outcome["quotas"][0]["used"] for outcome in outcomes] == [3] * 6


def test_bundles_at_the_same_time_are_charged_once(service: InProcessService, clock: Clock) -> None:
    messages = [grant_message([f"acme/{number}"]) for number in range(7)]
    orders = [messages, messages[::-1], messages[3:] + messages[:3]]
    with other_processes(service, 3) as workers, ThreadPoolExecutor(3) as pool:
        replies = pool.map(lambda worker, order: issue_all(worker, clock, *order), workers, orders)
        outcomes = [outcome for reply in replies for outcome in reply]
    items = {outcome["batch"]: outcome["items"] for outcome in outcomes}
    assert all(outcome["items"] == items[outcome["batch"]] for outcome in outcomes)
    assert len(service.rows(Batch)) == 7
    assert {row.grants for row in service.rows(Usage)} == {7}


def test_if_the_common_transaction_fails_each_message_has_its_own(
    service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise IntegrityError("INSERT", {}, ValueError())

    monkeypatch.setattr(issuer, "_write_new", fail)
    outcomes = issue_all(service, clock, grant_message(), grant_message())
    assert [outcome["quotas"][0]["used"] for outcome in outcomes] == [1, 2]
    assert len(service.rows(Batch)) == 2


def test_of_known_batches_only_some_are_answered_and_all_new_ones(
    service: InProcessService, clock: Clock
) -> None:
    known, *new = (grant_message() for _ in range(4))
    outcomes = issue_all(service, clock, *[known] * 20, *new)
    answered = [outcome["batch"] for outcome in outcomes]
    assert answered == [*[known["batch"]] * 9, *(message["batch"] for message in new)]


@pytest.fixture
def failing_keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Errors by the object key at which signing raises them; none yet."""
    errors: dict[str, Exception] = {}
    find = first_signing_context

    def find_or_fail(request: Any, *args: Any) -> Any:
        for item in request.message.items:
            if item.key in errors:
                raise errors[item.key]
        return find(request, *args)

    monkeypatch.setattr(issuer, "first_signing_context", find_or_fail)
    return errors


@pytest.mark.parametrize(
    "error", [Transient("no credentials", "credentials"), ValueError("s3cret")]
)
def test_a_message_that_cannot_be_decided_now_is_left_out_and_the_others_are_answered(
    service: InProcessService, clock: Clock, failing_keys: dict[str, Exception], error: Exception
) -> None:
    failing_keys["acme/bad"] = error
    bad = grant_message(["acme/bad"])
    others = [grant_message(), put_message({"acme/b.png": 1})]
    outcomes = issue_all(service, clock, others[0], others[1], bad)
    assert [outcome["batch"] for outcome in outcomes] == [other["batch"] for other in others]
    assert refusal_codes(outcomes) == [None, None]


def test_the_second_message_of_a_batch_id_never_answers_the_first(
    service: InProcessService, clock: Clock, failing_keys: dict[str, Exception]
) -> None:
    failing_keys["acme/bad"] = ValueError()
    bad = grant_message(["acme/bad"])
    good, malformed = bad | {"items": [{"key": "acme/good"}]}, bad | {"requested_by": ""}
    other = grant_message()
    outcomes = issue_all(service, clock, bad, good, malformed, other)
    assert [outcome["batch"] for outcome in outcomes] == [other["batch"]]
    del failing_keys["acme/bad"]
    assert refusal_codes(issue_all(service, clock, good, bad)) == [None, "batch_conflict"]


def test_no_third_bucket_is_tried_after_two_that_cannot_be_used(
    service: InProcessService, clock: Clock, failing_keys: dict[str, Exception]
) -> None:
    names = ["demo", "two", "three"]
    policies = {name: replace(POLICY, bucket=name) for name in names}
    acme = replace(CONFIG.tenants["acme"], policies=policies)
    buckets = {name: replace(DEMO, name=name) for name in names}
    service.apply(TenantConfig(buckets, {"acme": acme}))
    silent = Transient("no credentials", "credentials")
    failing_keys |= {"acme/demo": silent, "acme/two": silent}
    messages = [
        download_message(bucket=name) | {"items": [{"key": f"acme/{name}"}]} for name in names
    ]
    with pytest.raises(Transient):
        issue_all(service, clock, *messages)
    assert len(issue_all(service, clock, messages[0], messages[2], messages[2])) == 2


def test_a_bundle_that_takes_too_long_ends_at_the_soft_time_limit(
    service: InProcessService, clock: Clock, failing_keys: dict[str, Exception]
) -> None:
    failing_keys["acme/slow"] = SoftTimeLimitExceeded()
    with pytest.raises(SoftTimeLimitExceeded):
        issue_all(service, clock, grant_message(["acme/slow"]), grant_message())


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        (grant_message(tenant="globex"), "tenant_mismatch", "tenant"),
        (grant_message(ask="explain"), "malformed", "ask"),
        ({"v": 1, "ask": "usage", "tenant": "acme"}, "malformed", "ask"),
        (bundle(grant_message()), "malformed", "ask"),
        (grant_message(["a"] * 17), "malformed", "items"),
        (grant_message(total=2, chunk_size=1), "malformed", "items"),
        (grant_message(manifest="acme/m"), "malformed", "manifest"),
        (multipart_message(), "malformed", "grant.kind"),
        ("text", "malformed", ""),
    ],
)
def test_a_message_that_may_not_be_in_a_bundle_is_refused_alone(
    service: InProcessService, clock: Clock, message: Any, code: str, field: str
) -> None:
    refused, issued = issue_all(service, clock, message, grant_message())
    assert (refused["refusal"]["code"], refused["refusal"]["field"]) == (code, field)
    assert issued["status"] == "issued"
    assert len(service.rows(Batch)) == 1
    assert service.rows(RejectionCount.code, RejectionCount.count) == [(code, 1)]


def test_bundles_that_are_refused_in_another_order_do_not_block_each_other(
    service: InProcessService, clock: Clock
) -> None:
    malformed, unknown = "text", grant_message(colour="red")
    orders = [[malformed, unknown] * 8, [unknown, malformed] * 8] * 8
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda order: issue_all(service, clock, *order), orders))
    counts = dict(service.rows(RejectionCount.code, RejectionCount.count))
    assert counts == {"malformed": 128, "unknown_field": 128}


@pytest.mark.parametrize("count", [0, 65])
def test_an_empty_bundle_and_a_large_one_are_refused_as_a_whole(
    service: InProcessService, clock: Clock, count: int
) -> None:
    raw = bundle(*([grant_message()] * count))
    values = service.issue(sign_message(raw, ACME_KEY, clock()))
    assert values["status"] == "refused"
    assert values["refusal"]["field"] == "messages"


def test_a_field_of_an_absent_feature_is_refused_alone_and_in_a_bundle(
    service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_check, "_MISSING_FIELDS", ("callback",))
    messages = [grant_message(callback="hook"), grant_message(callback="hook")]
    outcomes = [*issue_all(service, clock, messages[0]), *issue_each(service, clock, messages[1])]
    refusals = [(each["refusal"]["code"], each["refusal"]["field"]) for each in outcomes]
    assert refusals == [("feature_missing", "callback")] * 2
    assert all(each["quotas"] for each in outcomes)
    assert service.rows(RejectionCount.code, RejectionCount.count) == [("feature_missing", 2)]
    assert rows(service, Batch, Grant, Usage) == []


def test_a_bundle_whose_messages_have_no_outcome_has_none_itself(
    service: InProcessService, clock: Clock, failing_keys: dict[str, Exception]
) -> None:
    failing_keys["acme/bad"] = Transient("no credentials", "credentials")
    bad = grant_message(["acme/bad"])
    message = bundle(bad, bad | download_message(bucket="other") | {"batch": bad["batch"]})
    response = service.respond(sign_message(message, ACME_KEY, clock()))
    assert response.values["replies"] == []
    assert response.outcomes == []
