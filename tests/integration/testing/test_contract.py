"""The claims that a program may rely on, of the real service and of the fake one alike."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.integration.testing.conftest import LIMIT
from tests.support.builders.messages import Clock, batch_id
from valetkey import Code, Grant, Item, Refusal, Refused
from worker.issue.dispatch import describe_service

KEY = "acme/a.png"


def refusal_of(handle: Any) -> Refusal:
    """Return the refusal of a single grant."""
    with pytest.raises(Refused) as caught:
        handle.result(10)
    return caught.value.refusal


def facts(refusal: Any) -> tuple[Any, ...]:
    """Return what a program decides by."""
    return refusal.code, refusal.field, refusal.limit, refusal.key


def test_an_item_has_its_own_texts_and_its_reference_comes_back(producer: Any) -> None:
    items = [{"key": "acme/1", "ref": "r-1", "filename": "a.pdf"}, {"key": "no", "ref": "r-2"}]
    results = list(producer.download_many("demo", items, recipient="ann", reason="case 7"))
    assert [(type(each), each.ref, each.key) for each in results] == [
        (Grant, "r-1", "acme/1"),
        (Refusal, "r-2", "no"),
    ]


@pytest.mark.parametrize(
    ("kind", "key", "options", "expected"),
    [
        ("download", "x/a", {}, ("key_outside_prefix", "items[0].key", ["acme/"], "x/a")),
        ("download", "acme/../a", {}, ("key_traversal", "items[0].key", None, "acme/../a")),
        ("download", "acme//a", {}, ("key_empty_segment", "items[0].key", None, "acme//a")),
        (
            "download",
            KEY,
            {"expires_in": 86_401},
            ("expiry_too_long", "grant.expires_in", 86_400, KEY),
        ),
        (
            "download",
            KEY,
            {"expires_in": 90_000, "min_expires_in": 86_500},
            ("expiry_too_long", "grant.min_expires_in", 86_400, KEY),
        ),
        ("download", KEY, {"expires_in": 0}, ("expiry_invalid", "grant.expires_in", 1, KEY)),
        ("download", KEY, {"filename": "a/b"}, ("filename_invalid", "grant.filename", None, KEY)),
        (
            "upload",
            KEY,
            {"max_size": 1_000_001},
            ("size_too_large", "grant.max_size", 1_000_000, KEY),
        ),
        (
            "upload",
            KEY,
            {"max_size": 5, "content_type": "text/html"},
            (
                "content_type_not_allowed",
                "grant.content_type",
                ["application/octet-stream", "image/*"],
                KEY,
            ),
        ),
        ("upload", KEY, {"max_size": 5, "size": 6}, ("size_too_large", "items[0].size", 5, KEY)),
        (
            "put",
            KEY,
            {"size": 3, "overwrite": True},
            ("overwrite_not_allowed", "grant.overwrite", None, KEY),
        ),
        (
            "download",
            KEY,
            {"deadline": datetime(2026, 11, 24, tzinfo=UTC)},
            ("deadline_passed", "deadline", "2026-11-24T00:00:00+00:00", KEY),
        ),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(
    producer: Any, kind: str, key: str, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert facts(refusal_of(getattr(producer, kind)("demo", key, **options))) == expected


def test_another_bucket_profile_is_refused_with_those_of_the_tenant(producer: Any) -> None:
    refusal = refusal_of(producer.download("other", KEY))
    assert facts(refusal) == (Code.BUCKET_NOT_ALLOWED, "grant.bucket", ["demo"], KEY)


def test_a_lifetime_over_the_maximum_is_shortened_with_min_expires_in(
    producer: Any, at_clock: Clock
) -> None:
    grant = producer.download("demo", KEY, expires_in=90_000, min_expires_in=60).result(10)
    assert (grant.expires_at - at_clock()).total_seconds() == 86_400
    assert grant.limited_by == "policy"


def test_a_batch_has_its_results_in_order_and_its_numbers(producer: Any) -> None:
    batch = producer.download_many("demo", [f"acme/{n}" for n in range(9)] + ["no"], chunk_size=4)
    results = list(batch)
    assert [each.key for each in results] == [f"acme/{n}" for n in range(9)] + ["no"]
    assert [each.id for each in results[:9]] == [f"{batch.id}.{n}" for n in range(9)]
    assert (batch.total, batch.issued, batch.refused, batch.remaining) == (10, 9, 1, 0)
    (quota,) = batch.quotas
    assert (quota.metric, quota.window, quota.limit, quota.used) == ("grants", "day", LIMIT, 9)


def test_puts_of_a_batch_have_their_own_sizes(producer: Any) -> None:
    items = [Item(key="acme/1", size=3), Item(key="acme/2", size=0)]
    sizes = [each.headers["content-length"] for each in producer.put_many("demo", items)]
    assert sizes == ["3", "0"]


def test_the_same_batch_id_gets_the_same_grants_charged_once(
    producer: Any, at_clock: Clock
) -> None:
    id_, keys = batch_id(), ["acme/1", "acme/2"]
    first = list(producer.download_many("demo", keys, batch_id=id_))
    at_clock.forward(minutes=5)
    second = list(producer.download_many("demo", keys, batch_id=id_))
    assert second == first
    assert producer.usage()[0].used == 2


def test_another_request_under_a_batch_id_is_a_conflict(producer: Any) -> None:
    id_ = batch_id()
    list(producer.download_many("demo", ["acme/1"], batch_id=id_))
    for other in (["acme/2"], ["acme/1", "acme/2"]):
        batch = producer.download_many("demo", other, batch_id=id_)
        assert {facts(each)[:2] for each in batch} == {(Code.BATCH_CONFLICT, "batch")}
        assert batch.refusal.code is Code.BATCH_CONFLICT


def test_a_batch_over_a_quota_is_refused_as_a_whole_and_not_charged(producer: Any) -> None:
    batch = producer.download_many("demo", [f"acme/{n}" for n in range(LIMIT + 1)])
    assert {each.code for each in batch} == {Code.QUOTA_EXCEEDED}
    quota = batch.refusal.quota
    assert (batch.refusal.field, batch.refusal.limit) == ("total", LIMIT)
    assert (quota.used, quota.asked, quota.left) == (0, LIMIT + 1, LIMIT)
    assert quota.resets_at == datetime(2026, 11, 25, tzinfo=UTC)
    assert producer.usage()[0].used == 0


def test_a_quota_resets_with_its_window(producer: Any, at_clock: Clock) -> None:
    list(producer.download_many("demo", [f"acme/{n}" for n in range(LIMIT)]))
    assert producer.usage()[0].warns
    assert refusal_of(producer.download("demo", KEY)).code is Code.QUOTA_EXCEEDED
    at_clock.forward(days=1)
    assert producer.download("demo", KEY).result(10).key == KEY


def test_a_batch_is_reopened_by_its_id_and_signed_again(producer: Any, at_clock: Clock) -> None:
    batch = producer.download_many("demo", ["acme/1", "no", "acme/3"], chunk_size=2)
    results = list(batch)
    at_clock.forward(days=2)
    other = producer.batch(batch.id)
    assert (other.total, other.issued, other.refused) == (3, 2, 1)
    again = list(other)
    assert again == results
    assert again[0].expires_at < at_clock()


def test_a_refused_batch_is_reopened_with_its_refusals(producer: Any) -> None:
    batch = producer.upload_many("demo", ["acme/1", "acme/2"], max_size=2_000_000)
    results = list(batch)
    other = producer.batch(batch.id)
    assert [facts(each) for each in other] == [facts(each) for each in results]
    assert other.refusal.code is Code.SIZE_TOO_LARGE


def test_a_batch_that_nobody_requested_is_unknown(producer: Any) -> None:
    for ask in (producer.batch, producer.status):
        with pytest.raises(Refused) as caught:
            ask(batch_id())
        assert facts(caught.value.refusal) == (Code.BATCH_UNKNOWN, "batch", None, None)


def test_a_cancelled_batch_grants_nothing_more(producer: Any) -> None:
    id_ = batch_id()
    cancelled = producer.cancel(id_, "changed my mind")
    assert (cancelled.batch, cancelled.issued, cancelled.released) == (id_, 0, 0)
    batch = producer.download_many("demo", ["acme/1"], batch_id=id_)
    assert [facts(each)[:2] for each in batch] == [(Code.BATCH_CLOSED, "batch")]


def test_cancelling_releases_what_is_not_decided(producer: Any) -> None:
    id_ = batch_id()
    first = producer.download_many(
        "demo", iter([f"acme/{n}" for n in range(4)]), total=4, chunk_size=2, batch_id=id_
    )
    list(first)
    cancelled = producer.cancel(first)
    assert (cancelled.issued, cancelled.released) == (4, 0)
    assert list(producer.batch(id_))[3].key == "acme/3"
    assert producer.cancel(id_, abort_uploads=True).aborting == 0


def test_the_states_of_grants_are_told(producer: Any, at_clock: Clock) -> None:
    batch = producer.upload_many("demo", ["acme/1", "no"], max_size=5, expires_in=60)
    grant = next(iter(batch))
    states = producer.status(grant, probe=False)
    assert (states.kind, states.bucket, states.total, states.state) == ("upload", "demo", 2, "open")
    assert (states.items[0].key, states.items[0].expires_at) == ("acme/1", grant.expires_at)
    assert producer.status(batch, probe=False).counts == {"open": 1, "refused": 1}
    assert producer.status(f"{batch.id}.1", probe=False).state == "refused"
    download = producer.download("demo", KEY, expires_in=60)
    download.result(10)
    at_clock.forward(days=1)
    assert producer.status(download, probe=False).state == "unknown"


def test_an_item_that_a_batch_does_not_have_is_refused(producer: Any) -> None:
    handle = producer.download("demo", KEY)
    handle.result(10)
    with pytest.raises(Refused) as caught:
        producer.status(f"{handle.id}.1")
    assert facts(caught.value.refusal) == (Code.GRANT_UNKNOWN, "items[0]", 0, None)


def test_a_grant_is_issued_again(producer: Any, at_clock: Clock) -> None:
    items = [{"key": "acme/1", "ref": "r-1", "filename": "a.pdf"}]
    (first,) = producer.download_many("demo", items, expires_in=60, recipient="ann")
    at_clock.forward(hours=1)
    again = producer.reissue(first, expires_in=90).result(10)
    assert (again.key, again.ref) == ("acme/1", "r-1")
    assert (again.expires_at - at_clock()).total_seconds() == 90
    assert "a.pdf" in again.url
    assert producer.usage()[0].used == 2


def test_what_cannot_be_issued_again_is_refused(producer: Any) -> None:
    unknown = refusal_of(producer.reissue(f"{batch_id()}.0"))
    assert facts(unknown) == (Code.GRANT_UNKNOWN, "of", None, None)
    batch = producer.download_many("demo", ["no"])
    list(batch)
    refused = refusal_of(producer.reissue(f"{batch.id}.0"))
    assert (refused.code, refused.field) == (Code.REISSUE_NOT_ALLOWED, "of")


def test_a_request_is_explained_without_a_charge(producer: Any) -> None:
    assert producer.explain().download("demo", KEY).decision == "issue"
    explained = producer.explain().upload("demo", KEY, max_size=2_000_000)
    assert explained.decision == "refuse"
    refusals = {each.rule: each.refusal.code for each in explained.rules if each.refusal}
    assert refusals == {"grant.max_size": Code.SIZE_TOO_LARGE}
    many = producer.explain().download_many("demo", [f"acme/{n}" for n in range(LIMIT + 1)])
    assert [each.refusal.code for each in many.rules if each.refusal] == [Code.QUOTA_EXCEEDED]
    outside = producer.explain().download("demo", "no")
    assert [each.rule for each in outside.rules if each.refusal] == ["items"]
    assert producer.usage()[0].used == 0


def test_the_service_describes_itself(producer: Any) -> None:
    assert producer.service() == describe_service("acme")
