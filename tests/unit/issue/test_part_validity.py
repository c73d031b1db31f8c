"""The validity of the parts of a multipart upload, which they do not outlive."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.builders.messages import parts_message, tenant_config
from valetkey.signing.signing_context import NO_UPLOAD, SigningContext
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from worker.aws.s3_clients import S3Clients
from worker.issue.chunk_signing import first_signing_context
from worker.ledger.multipart_rows import UploadRecord
from worker.rules.admission import admit
from worker.rules.policy_rules import RequestContext

NOW = datetime(2026, 11, 24, 12, 30, 0, 700_000, tzinfo=UTC)
ISSUED_AT = NOW.replace(microsecond=0)
CONFIG = tenant_config()


def signing_context(upload_seconds: int, **terms: Any) -> SigningContext | Refusal:
    """Admit a request for parts of an upload that ends this many seconds after they are issued."""
    message = ChunkMessage.model_validate(parts_message("b.0", 1, **terms))
    tenant = CONFIG.tenants["acme"]
    admitted = admit(message, tenant, CONFIG, NOW)
    assert isinstance(admitted, RequestContext)
    upload = UploadRecord(
        batch_number=1,
        item_number=0,
        tenant_id="acme",
        bucket="demo",
        object_key="acme/a.pdf",
        upload=NO_UPLOAD,
        expires_at=ISSUED_AT + timedelta(seconds=upload_seconds),
        is_open=True,
    )
    return first_signing_context(admitted, upload, S3Clients())


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")


@pytest.mark.parametrize(
    ("upload_seconds", "terms", "expires_in", "limited_by"),
    [
        (601, {}, 600, "request"),
        (600, {}, 600, "request"),
        (599, {}, 599, "provider"),
        (60, {"min_expires_in": 60}, 60, "provider"),
        # The policy's maximum is a day; the upload, of the same policy, began before.
        (86_399, {"expires_in": 86_401, "min_expires_in": 1}, 86_399, "provider"),
        (86_401, {"expires_in": 86_401, "min_expires_in": 1}, 86_400, "policy"),
    ],
)
def test_a_part_that_would_outlive_its_upload_ends_with_it_and_says_so(
    upload_seconds: int, terms: dict[str, Any], expires_in: int, limited_by: str
) -> None:
    context = signing_context(upload_seconds, **terms)
    assert isinstance(context, SigningContext)
    assert context.validity == (ISSUED_AT, expires_in, limited_by)


def test_a_part_is_refused_if_its_upload_ends_before_the_shortest_useful_lifetime() -> None:
    refusal = signing_context(59, min_expires_in=60)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.field) == ("expiry_too_short", "grant.min_expires_in")
    assert refusal.limit == 59
    assert "the upload of the part ends" in refusal.message
