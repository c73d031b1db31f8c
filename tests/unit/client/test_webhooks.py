import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from valetkey.webhooks import TOLERANCE, InvalidWebhook, parse_upload_event, verify
from worker.webhooks.webhook_secrets import WebhookSecret, signature_headers

NOW = datetime(2026, 11, 24, 23, 0, tzinfo=UTC)
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
BODY = '{"type":"grants.completed","label":"ü"}'.encode()
ID = "msg_0199"


def whsec(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def headers(
    body: bytes = BODY, *keys: bytes, now: datetime = NOW, **overrides: str
) -> dict[str, str]:
    signed = signature_headers([WebhookSecret(key) for key in keys or (KEY,)], ID, now, body)
    return signed | {f"webhook-{name}": value for name, value in overrides.items()}


def raw_signature(message_id: str, timestamp: str, body: bytes) -> str:
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()


SIGNATURE = headers()["webhook-signature"]


def verify_with_key(body: bytes, signed: Mapping[str, str]) -> object:
    return verify(body, signed, whsec(KEY), now=NOW)


def test_a_signed_webhook_is_verified_by_the_reference_library() -> None:
    signed = headers(now=datetime.now(UTC))
    assert Webhook(whsec(KEY)).verify(BODY, signed) == json.loads(BODY)


def test_a_timestamp_in_another_time_zone_has_the_same_signature() -> None:
    same_moment = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert headers(now=same_moment) == headers()


@pytest.mark.parametrize(
    ("message_id", "now", "error"), [(ID, NOW.replace(tzinfo=None), "zone"), ("a.b", NOW, "dots")]
)
def test_a_timestamp_without_a_zone_and_an_id_with_a_dot_are_not_signed(
    message_id: str, now: datetime, error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        signature_headers([WebhookSecret(KEY)], message_id, now, BODY)


@pytest.mark.parametrize(
    ("signers", "secrets"),
    [
        ([OTHER_KEY, KEY], whsec(KEY)),
        ([OTHER_KEY, KEY], whsec(OTHER_KEY)),
        ([KEY], [whsec(OTHER_KEY), whsec(KEY)]),
    ],
)
def test_any_common_secret_verifies_during_a_rotation(
    signers: list[bytes], secrets: str | list[str]
) -> None:
    assert verify(BODY, headers(BODY, *signers), secrets, now=NOW)


def test_header_names_are_read_in_any_case() -> None:
    assert verify_with_key(BODY, {name.title(): value for name, value in headers().items()})


@pytest.mark.parametrize("junk", ["garbage", "v1,a,b", "v1,%%%", "v1,YQ", "v1a,x", "v1,é", ","])
def test_junk_before_a_valid_signature_does_not_hide_it(junk: str) -> None:
    assert verify_with_key(BODY, headers(signature=f"{junk} {SIGNATURE}"))


@pytest.mark.parametrize(
    "junk", ["", " ", "garbage", "v1,a,b", "v1,%%%", "v1,YQ", "v1,", "v1,é\udc80"]
)
def test_junk_alone_is_invalid(junk: str) -> None:
    with pytest.raises(InvalidWebhook, match="no signature"):
        verify_with_key(BODY, headers(signature=junk))


@pytest.mark.parametrize(
    ("body", "signed", "secrets"),
    [
        pytest.param(BODY + b" ", headers(), [whsec(KEY)], id="another body"),
        pytest.param(BODY, headers(id="msg_0200"), [whsec(KEY)], id="another id"),
        pytest.param(BODY, headers(), [whsec(OTHER_KEY)], id="another secret"),
        pytest.param(BODY, headers(), [], id="no secret"),
        pytest.param(BODY, headers(signature=f"v2,{SIGNATURE[3:]}"), [whsec(KEY)], id="version 2"),
    ],
)
def test_what_is_not_signed_so_is_invalid(
    body: bytes, signed: dict[str, str], secrets: list[str]
) -> None:
    with pytest.raises(InvalidWebhook, match="no signature"):
        verify(body, signed, secrets, now=NOW)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_invalid(missing: str) -> None:
    signed = headers()
    del signed[missing]
    with pytest.raises(InvalidWebhook):
        verify_with_key(BODY, signed)


@pytest.mark.parametrize("tolerance", [TOLERANCE, timedelta(seconds=10)])
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_a_webhook_is_valid_within_a_tolerance_that_can_be_narrowed(
    sign: int, tolerance: timedelta
) -> None:
    assert verify(
        BODY, headers(now=NOW + sign * tolerance), whsec(KEY), now=NOW, tolerance=tolerance
    )
    late = headers(now=NOW + (sign or 1) * (tolerance + timedelta(seconds=1)))
    with pytest.raises(InvalidWebhook, match="too far"):
        verify(BODY, late, whsec(KEY), now=NOW, tolerance=tolerance)


@pytest.mark.parametrize(
    "timestamp",
    ["", "now", "-1", "+1", "1.5", "1e9", " 1795561200", "1_0", "\u0661", "9" * 11, "nan"],
)
def test_a_timestamp_that_is_not_in_seconds_is_invalid_even_if_signed(timestamp: str) -> None:
    signature = raw_signature(ID, timestamp, BODY)
    with pytest.raises(InvalidWebhook, match="seconds"):
        verify_with_key(BODY, headers(timestamp=timestamp, signature=signature))


@pytest.mark.parametrize("message_id", ["", "a.b", "é", "\udc80"])
def test_a_malformed_id_is_invalid_even_if_signed(message_id: str) -> None:
    timestamp = str(int(NOW.timestamp()))
    signature = raw_signature(message_id.replace("\udc80", "?"), timestamp, BODY)
    with pytest.raises(InvalidWebhook, match="webhook-id"):
        verify_with_key(BODY, headers(id=message_id, signature=signature))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff{}", '{"a":1}'.encode("utf-16"), b"[]", b"null", b"[" * 100_000]
)
def test_a_signed_body_that_is_no_json_object_is_invalid(body: bytes) -> None:
    signature = raw_signature(ID, str(int(NOW.timestamp())), body)
    with pytest.raises(InvalidWebhook, match="the body"):
        verify_with_key(body, headers(signature=signature))


@pytest.mark.parametrize(
    "secret",
    [
        *("", "whsec_", "whsec_YQ==", "whsec_%%", "whsec_é", KEY.hex()),
        whsec(b"k" * 23),
        whsec(b"k" * 65),
    ],
)
def test_a_weak_or_malformed_secret_is_refused(secret: str) -> None:
    with pytest.raises(InvalidWebhook, match="secret must be") as raised:
        verify(BODY, headers(), [whsec(KEY), secret], now=NOW)
    encoded = secret.removeprefix("whsec_")
    assert not encoded or encoded not in str(raised.value)


@given(st.binary(max_size=60), st.dictionaries(st.sampled_from([*headers(), "x"]), st.text()))
def test_every_invalid_request_raises_the_same_exception(
    body: bytes, hostile_headers: dict[str, str]
) -> None:
    with pytest.raises(InvalidWebhook):
        verify_with_key(body, hostile_headers)


@given(st.dictionaries(st.text(), st.text()))
def test_every_signed_payload_is_returned(payload: dict[str, str]) -> None:
    body = json.dumps(payload).encode()
    assert verify_with_key(body, headers(body)) == payload


UPLOAD = {"id": "b.0", "item": 0, "key": "acme/a", "size": 5, "stored_at": "2026-11-24T12:00:00Z"}
DATA = {"tenant": "acme", "batch": "b", "chunk": 0, "uploads": [UPLOAD]}
EVENT = {"type": "upload.stored", "timestamp": "2026-11-24T12:00:01Z", "data": DATA}


@pytest.mark.parametrize("event_type", ["upload.stored", "upload.scanned"])
def test_a_webhook_about_uploads_becomes_typed_values(event_type: str) -> None:
    event = parse_upload_event(EVENT | {"later": 1, "type": event_type})
    assert event is not None
    (upload,) = event.data.uploads
    assert (event.type, upload.size, upload.late) == (event_type, 5, False)
    assert upload.stored_at == datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize("payload", [{"batch": "b", "items": []}, {"type": "audit.checkpoint"}])
def test_a_webhook_about_something_else_is_no_upload_event(payload: dict[str, object]) -> None:
    assert parse_upload_event(payload) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data": DATA | {"uploads": [{"id": "secret"}]}}, "data.uploads.0.item"),
        ({"data": DATA | {"chunk": "secret"}}, "data.chunk"),
        ({"timestamp": "secret"}, "timestamp"),
    ],
)
def test_a_malformed_webhook_about_uploads_is_refused_with_the_field(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidWebhook, match=field) as refused:
        parse_upload_event(EVENT | changes)
    assert "secret" not in str(refused.value)
