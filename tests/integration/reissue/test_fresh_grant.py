"""Issuing the object of an earlier grant again: the terms of then, the rules of today."""

from dataclasses import replace
from typing import Any

import pytest

from models import Batch
from tests.support.builders.messages import (
    POLICY,
    Clock,
    about_batch,
    batch_id,
    download_message,
    grant_message,
    put_message,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from valetkey.wire.replies import Outcome
from worker.rules.tenant_config import Quota, Tenant, TenantConfig

QUOTAS = (Quota("grants", "day", 10), Quota("upload_bytes", "day", 2_000_000))


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config(*QUOTAS))
    return service


def reissue_message(of: str, **changes: Any) -> dict[str, Any]:
    fields = {"requested_by": "support", "reason": "opened late", "of": of}
    return about_batch(batch_id(), "reissue", **fields) | changes


def issued(service: InProcessService, message: dict[str, Any], item: int = 0) -> dict[str, Any]:
    outcome = service.issue(message)
    assert outcome["status"] == "issued", outcome["refusal"]
    grant: dict[str, Any] = outcome["items"][item]
    return grant


def refusal(service: InProcessService, message: dict[str, Any]) -> tuple[str, str]:
    outcome = Outcome.model_validate(service.issue(message))
    assert outcome.refusal is not None
    return str(outcome.refusal.code), outcome.refusal.field


def test_an_expired_link_is_issued_again_as_it_was(service: InProcessService, clock: Clock) -> None:
    first = issued(service, download_message(filename="a.pdf", expires_in=60))
    clock.forward(days=3)
    message = reissue_message(first["id"], recipient="ann")
    fresh = issued(service, message)
    assert fresh["id"] == f"{message['batch']}.0"
    assert (fresh["key"], fresh["method"]) == (first["key"], "GET")
    assert "a.pdf" in fresh["url"]
    assert fresh["expires_at"] > first["expires_at"]
    rows = service.rows(Batch.reissue_of, Batch.requested_by, Batch.reason, Batch.recipient)
    assert rows[1] == (first["id"], "support", "opened late", "ann")
    assert rows[0].reissue_of is None
    assert service.is_log_sound()


def test_an_upload_keeps_its_limits_and_is_charged_as_declared(service: InProcessService) -> None:
    request = upload_message(["acme/a.png", "acme/b.png"], max_size=500_000)
    first = issued(service, request, item=1)
    fresh = issued(service, reissue_message(first["id"]))
    assert fresh["key"] == "acme/b.png"
    assert fresh["fields"]["x-amz-meta-grant-id"] == fresh["id"]
    assert service.charged("day") == 3
    assert service.charged("day", "upload_bytes") == 1_500_000


def test_a_put_keeps_its_size_and_checksum(service: InProcessService) -> None:
    checksum = {"algorithm": "crc32", "value": "AAAAAA=="}
    message = put_message({"acme/a.png": 5})
    message["items"][0]["checksum"] = checksum
    first = issued(service, message)
    headers = issued(service, reissue_message(first["id"]))["headers"]
    assert headers["content-length"] == "5"
    assert headers["x-amz-checksum-crc32"] == "AAAAAA=="
    assert headers["if-none-match"] == "*"


def test_a_message_that_arrives_again_gets_the_same_grant_charged_once(
    service: InProcessService, clock: Clock
) -> None:
    first = issued(service, download_message())
    message = reissue_message(first["id"])
    fresh = issued(service, message)
    clock.forward(seconds=9)
    assert issued(service, message) == fresh
    assert service.charged("day") == 2
    service.cancel(first["id"].partition(".")[0])
    assert issued(service, message) == fresh
    assert service.charged("day") == 2
    assert refusal(service, reissue_message(first["id"])) == ("batch_closed", "of")
    assert refusal(service, message | {"of": f"{batch_id()}.0"}) == ("batch_conflict", "batch")


def test_a_batch_id_that_was_used_before_is_a_conflict(service: InProcessService) -> None:
    first = issued(service, download_message())
    other = reissue_message(first["id"])
    issued(service, other)
    assert refusal(service, other | {"expires_in": 60}) == ("batch_conflict", "batch")
    own = reissue_message(first["id"], batch=first["id"].partition(".")[0])
    assert refusal(service, own) == ("batch_conflict", "batch")


def test_the_lifetime_may_be_another_one(service: InProcessService) -> None:
    first = issued(service, download_message(expires_in=3_600, min_expires_in=600))
    fresh = issued(service, reissue_message(first["id"], expires_in=60))
    assert fresh["expires_at"] < first["expires_at"]
    again = issued(service, reissue_message(fresh["id"]))
    assert again["expires_at"] == fresh["expires_at"]
    without_minimum = issued(service, download_message())["id"]
    too_long = reissue_message(without_minimum, expires_in=604_800)
    assert refusal(service, too_long) == ("expiry_too_long", "grant.expires_in")


def test_the_policy_and_the_quotas_of_today_decide(service: InProcessService) -> None:
    first = issued(service, upload_message())
    narrowed = {"demo": replace(POLICY, prefixes=("globex/",))}
    service.apply(tenant_config(*QUOTAS, policies=narrowed))
    outcome = service.issue(reissue_message(first["id"]))
    assert outcome["items"][0]["code"] == "key_outside_prefix"
    service.apply(tenant_config(*QUOTAS, policies={"demo": replace(POLICY, kinds=("download",))}))
    assert refusal(service, reissue_message(first["id"])) == ("kind_not_allowed", "grant.kind")
    service.apply(tenant_config(Quota("grants", "day", 1)))
    exceeded = reissue_message(first["id"])
    assert refusal(service, exceeded) == ("quota_exceeded", "total")
    assert service.charged("day") == 1
    assert service.rows(Batch.reissue_of)[-1] == (first["id"],)  # a refusal is in the log as well


def test_grants_that_cannot_be_issued_again_are_refused(service: InProcessService) -> None:
    request = grant_message(["acme/a", "globex/b"])
    first = issued(service, request)
    refused = reissue_message(f"{request['batch']}.1")
    assert refusal(service, refused) == ("reissue_not_allowed", "of")
    for unknown in (f"{request['batch']}.2", f"{batch_id()}.0"):
        assert refusal(service, reissue_message(unknown)) == ("grant_unknown", "of")
    for malformed in ("", request["batch"], f"{request['batch']}.01", f"{request['batch']}.x", 7):
        assert refusal(service, reissue_message("") | {"of": malformed}) == ("grant_unknown", "of")
    config = tenant_config()
    other = Tenant("globex", trust="queue", policies=config.tenants["acme"].policies)
    service.apply(TenantConfig(config.buckets, {**config.tenants, "globex": other}))
    foreign = reissue_message(first["id"], tenant="globex")
    assert refusal(service, foreign) == ("grant_unknown", "of")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expires_in": 0}, ("expiry_invalid", "expires_in")),
        ({"expires_in": 604_801}, ("expiry_invalid", "expires_in")),
        ({"batch": "x"}, ("malformed", "batch")),
        ({"requested_by": ""}, ("malformed", "requested_by")),
        ({"callback": "hook"}, ("unknown_field", "callback")),
    ],
)
def test_a_wrong_field_is_named(
    changes: dict[str, Any], expected: tuple[str, str], service: InProcessService
) -> None:
    assert refusal(service, reissue_message(f"{batch_id()}.0", **changes)) == expected
