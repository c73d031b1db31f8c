"""Messages of a bundle that are refused or fail spoil no other message of it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Engine, func, select

from models import Batch, RejectionCount
from tests.integration.conftest import ApplyConfig
from tests.support.builders.bundles import bundle, issue_all, refusal_codes
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    grant_message,
    put_message,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import ACME_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message, unseal_result
from worker.db.engine import read_transaction
from worker.errors import Transient
from worker.usecases import issue_bundle
from worker.usecases.signing_context import first_signing_context


@pytest.fixture
def service(apply_config: ApplyConfig, service: InProcessService) -> InProcessService:
    apply_config(config_with_keys(ACME_KEY))
    return service


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

    monkeypatch.setattr(issue_bundle, "first_signing_context", find_or_fail)
    monkeypatch.setattr("worker.usecases.issue.first_signing_context", find_or_fail)
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


def test_a_bundle_of_which_nothing_can_be_decided_now_is_postponed(
    service: InProcessService, clock: Clock, failing_keys: dict[str, Exception]
) -> None:
    failing_keys["acme/bad"] = Transient("no credentials", "credentials")
    with pytest.raises(Transient, match="no credentials"):
        issue_all(service, clock, grant_message(["acme/bad"]), grant_message(["acme/bad"]))


def test_no_third_bucket_is_tried_after_two_that_cannot_be_used(
    apply_config: ApplyConfig,
    service: InProcessService,
    clock: Clock,
    failing_keys: dict[str, Exception],
) -> None:
    names = ["demo", "two", "three"]
    config = config_with_keys(ACME_KEY)
    acme = config.tenants["acme"]
    policies = {name: replace(POLICY, bucket=name) for name in names}
    buckets = {name: replace(DEMO, name=name) for name in names}
    tenants = {**config.tenants, "acme": replace(acme, policies=policies)}
    apply_config(replace(config, buckets=buckets, tenants=tenants))
    silent = Transient("no credentials", "credentials")
    failing_keys |= {"acme/demo": silent, "acme/two": silent}
    messages = [
        grant_message([f"acme/{name}"], grant=grant_message()["grant"] | {"bucket": name})
        for name in names
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
        (
            upload_message(kind="multipart") | {"items": [{"key": "acme/a", "size": 9}]},
            "malformed",
            "grant.kind",
        ),
        ("text", "malformed", ""),
    ],
)
def test_a_message_that_may_not_be_in_a_bundle_is_refused_alone(
    engine: Engine, service: InProcessService, clock: Clock, message: Any, code: str, field: str
) -> None:
    refused, issued = issue_all(service, clock, message, grant_message())
    assert (refused["refusal"]["code"], refused["refusal"]["field"]) == (code, field)
    assert issued["status"] == "issued"
    with read_transaction(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(Batch)) == 1
        counted = connection.execute(select(RejectionCount.code, RejectionCount.count)).all()
    assert counted == [(code, 1)]


def test_bundles_that_are_refused_in_another_order_do_not_block_each_other(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    malformed, unknown = "text", grant_message(colour="red")
    orders = [[malformed, unknown] * 8, [unknown, malformed] * 8] * 8
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda order: issue_all(service, clock, *order), orders))
    with read_transaction(engine) as connection:
        query = select(RejectionCount.code, RejectionCount.count).order_by(RejectionCount.code)
        assert connection.execute(query).all() == [("malformed", 128), ("unknown_field", 128)]


@pytest.mark.parametrize("count", [0, 65])
def test_an_empty_bundle_and_a_large_one_are_refused_as_a_whole(
    service: InProcessService, clock: Clock, count: int
) -> None:
    raw = bundle(*([grant_message()] * count))
    values = service.issue(sign_message(raw, ACME_KEY, clock()))
    assert values["status"] == "refused"
    assert values["refusal"]["field"] == "messages"


def test_the_answer_to_a_signed_bundle_is_sealed_and_that_to_a_plain_one_is_plain(
    service: InProcessService, clock: Clock
) -> None:
    sealed = service.respond(sign_message(bundle(grant_message()), ACME_KEY, clock()))
    assert isinstance(sealed.sent, str)
    assert unseal_result(sealed.sent, ACME_KEY) == sealed.values
    plain = service.respond(
        bundle(grant_message(["queueing/a"], tenant="queueing"), tenant="queueing")
    )
    assert plain.sent == plain.values
    assert plain.values["replies"][0]["items"][0]["url"]


def test_an_unsigned_bundle_of_a_tenant_with_keys_is_refused(service: InProcessService) -> None:
    assert service.issue(bundle(grant_message()))["refusal"]["code"] == "signature_required"
