import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any, assert_never

import pytest
import standardwebhooks
import svix.webhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from valetkey.webhook_examples import example_body
from valetkey.webhooks import (
    TOLERANCE,
    BatchCompleted,
    EndpointDisabled,
    EndpointTest,
    Event,
    GrantsDecided,
    InvalidWebhook,
    QuotaWarning,
    UnknownEvent,
    UploadMismatched,
    UploadStored,
    UploadUnused,
    sign,
    unwrap,
)
from valetkey.wire.events import EVENT_TYPES, EventType
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Grant
from worker.webhooks.webhook_secrets import WebhookSecret, signature_headers

NOW = datetime(2026, 11, 24, 23, 0, tzinfo=UTC)
SECONDS = str(int(NOW.timestamp()))
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
ENVELOPE = {"type": "grants.counted", "timestamp": "2026-11-24T22:59:59Z", "data": {"label": "ü"}}
BODY = json.dumps(ENVELOPE, ensure_ascii=False).encode()
ID = "msg_0199"
BATCH = "0199a000-0000-7000-8000-000000000000"  # of the examples


def whsec(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def headers(
    body: bytes = BODY, *keys: bytes, now: datetime = NOW, **overrides: str
) -> dict[str, str]:
    signed = signature_headers([WebhookSecret(key) for key in keys or (KEY,)], ID, now, body)
    return signed | {f"webhook-{name}": value for name, value in overrides.items()}


def signed_content(body: bytes, message_id: str = ID, timestamp: str = SECONDS) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def raw_signature(content: bytes) -> str:
    return "v1," + base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()


SIGNATURE = headers()["webhook-signature"]


def unwrap_now(body: bytes, signed: Mapping[str, str], secret: str = whsec(KEY)) -> Event:
    return unwrap(body, signed, secret, now=NOW)


def unwrap_signed(body: bytes | Mapping[str, Any]) -> Event:
    """Unwrap a body, or a payload, that has a valid signature."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    signed = headers() | {"webhook-signature": raw_signature(signed_content(data))}
    return unwrap_now(data, signed)


# Signatures.


def test_a_webhook_that_the_service_signs_is_verified_by_the_reference_library() -> None:
    signed = headers(now=datetime.now(UTC))
    assert standardwebhooks.Webhook(whsec(KEY)).verify(BODY, signed) == ENVELOPE


def test_a_webhook_for_a_test_has_the_headers_of_the_service() -> None:
    signed = sign(BODY, ID, NOW, whsec(KEY))
    assert signed == headers()


def test_a_timestamp_in_another_time_zone_has_the_same_signature() -> None:
    same_moment = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert headers(now=same_moment) == headers()
    assert sign(BODY, ID, same_moment, whsec(KEY)) == sign(BODY, ID, NOW, whsec(KEY))


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
    assert unwrap(BODY, headers(BODY, *signers), secrets, now=NOW)


def test_header_names_are_read_in_any_case() -> None:
    assert unwrap_now(BODY, {name.title(): value for name, value in headers().items()})


PRIVATE_KEY = Ed25519PrivateKey.from_private_bytes(b"p" * 32)
PUBLIC_KEY = "whpk_" + base64.b64encode(PRIVATE_KEY.public_key().public_bytes_raw()).decode()
ED25519 = "v1a," + base64.b64encode(PRIVATE_KEY.sign(signed_content(BODY))).decode()
VERIFIED = {"v1": (whsec(KEY), SIGNATURE), "v1a": (PUBLIC_KEY, ED25519)}
"""The secret or public key of a receiver, and the signature that it accepts."""
by_version = pytest.mark.parametrize(("secret", "signature"), VERIFIED.values(), ids=VERIFIED)


def test_an_ed25519_signature_is_verified_with_the_public_key() -> None:
    assert unwrap_now(BODY, headers(signature=f"{SIGNATURE} {ED25519}"), PUBLIC_KEY)


@by_version
@pytest.mark.parametrize(
    "junk", ["garbage", "v1,a,b", "v1,%%%", "v1,YQ", "v1a,x", "v1a,YQ==", "v1,é", "v1a,é", ","]
)
def test_junk_before_a_valid_signature_does_not_hide_it(
    secret: str, signature: str, junk: str
) -> None:
    assert unwrap_now(BODY, headers(signature=f"{junk} {signature}"), secret)


@by_version
@pytest.mark.parametrize(
    "junk",
    [
        *("", " ", "garbage", "v1,a,b", "v1,%%%", "v1,YQ", "v1,", "v1a,", "v1,é\udc80"),
        *(f"{ED25519}%", f"{ED25519[:-3]}{chr(ord(ED25519[-3]) + 1)}=="),  # other spellings
        *("v1a,\udc80", f"v1a,{SIGNATURE[3:]}", f"v1,{ED25519[4:]}", f"v1a,{'A' * 86}=="),
    ],
)
def test_junk_alone_is_invalid(secret: str, signature: str, junk: str) -> None:
    assert junk != signature
    with pytest.raises(InvalidWebhook, match=r"no signature|signature is missing"):
        unwrap_now(BODY, headers(signature=junk), secret)


def test_a_flood_of_signatures_costs_one_hmac_of_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signed, digest = headers(signature="x " * 4_000), hmac.new
    digests: list[hmac.HMAC] = []

    def count(*args: Any) -> hmac.HMAC:
        digests.append(digest(*args))
        return digests[-1]

    monkeypatch.setattr(hmac, "new", count)
    with pytest.raises(InvalidWebhook, match="no signature matches"):
        unwrap_now(BODY, signed)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("body", "signed", "secrets"),
    [
        pytest.param(BODY + b" ", headers(), [whsec(KEY)], id="another body"),
        pytest.param(BODY, headers(id="msg_0200"), [whsec(KEY)], id="another id"),
        pytest.param(BODY, headers(), [whsec(OTHER_KEY)], id="another secret"),
        pytest.param(BODY, headers(), [PUBLIC_KEY], id="another kind of secret"),
        pytest.param(BODY, headers(signature=f"v2,{SIGNATURE[3:]}"), [whsec(KEY)], id="version 2"),
    ],
)
def test_what_is_not_signed_so_is_invalid(
    body: bytes, signed: dict[str, str], secrets: list[str]
) -> None:
    with pytest.raises(InvalidWebhook, match="no signature"):
        unwrap(body, signed, secrets, now=NOW)


def mutate(text: bytes, position: int, byte: int) -> bytes:
    position %= len(text)
    return text[:position] + bytes([byte]) + text[position + 1 :]


@by_version
@given(st.sampled_from(["body", "id", "timestamp", "signature"]), st.integers(0), st.data())
def test_a_signed_webhook_of_which_one_character_is_changed_is_invalid(
    secret: str, signature: str, part: str, position: int, data: st.DataObject
) -> None:
    signed = headers(signature=signature)
    text = BODY if part == "body" else signed[f"webhook-{part}"].encode()
    byte = data.draw(st.integers(0, 255 if part == "body" else 127))
    changed = mutate(text, position, byte)
    if part == "body":
        body = changed
    else:
        body, signed[f"webhook-{part}"] = BODY, changed.decode()
    if changed == text:
        assert unwrap_now(body, signed, secret)
    else:
        with pytest.raises(InvalidWebhook):
            unwrap_now(body, signed, secret)


# Headers and secrets.


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_invalid(missing: str) -> None:
    signed = headers()
    del signed[missing]
    with pytest.raises(InvalidWebhook, match=f"{missing} is missing"):
        unwrap_now(BODY, signed)


def test_an_empty_list_of_secrets_is_no_wrong_signature() -> None:
    with pytest.raises(InvalidWebhook, match="there is no secret"):
        unwrap(BODY, headers(), [], now=NOW)


@pytest.mark.parametrize("tolerance", [TOLERANCE, timedelta(seconds=10)])
@pytest.mark.parametrize("sign_of_difference", [-1, 0, 1])
def test_a_webhook_is_valid_within_a_tolerance_that_can_be_narrowed(
    sign_of_difference: int, tolerance: timedelta
) -> None:
    unwrap_within = partial(unwrap, BODY, now=NOW, secrets=whsec(KEY), tolerance=tolerance)
    assert unwrap_within(headers(now=NOW + sign_of_difference * tolerance))
    late = NOW + (sign_of_difference or 1) * (tolerance + timedelta(seconds=1))
    with pytest.raises(InvalidWebhook, match="too far"):
        unwrap_within(headers(now=late))


@pytest.mark.parametrize(
    "timestamp",
    ["", "now", "-1", "+1", "1.5", "1e9", " 1795561200", "1_0", "\u0661", "9" * 11, "nan"],
)
def test_a_timestamp_that_is_not_in_seconds_is_invalid_even_if_signed(timestamp: str) -> None:
    signature = raw_signature(signed_content(BODY, timestamp=timestamp))
    with pytest.raises(InvalidWebhook, match="seconds"):
        unwrap_now(BODY, headers(timestamp=timestamp, signature=signature))


@pytest.mark.parametrize(
    "message_id", ["", "a.b", "a b", "a\n", "é", "\udc80", "\x00", "a" * 256, "a" * 10**6]
)
def test_a_malformed_id_is_invalid_even_if_signed(message_id: str) -> None:
    signature = raw_signature(signed_content(BODY, message_id.replace("\udc80", "?")))
    with pytest.raises(InvalidWebhook, match="webhook-id"):
        unwrap_now(BODY, headers(id=message_id, signature=signature))


SMALL_ORDER = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "secret",
    [
        *("", "whsec_", "whsec_YQ==", "whsec_%%", "whsec_é", KEY.hex(), f" {whsec(KEY)}"),
        *("whpk_", "whpk_YQ==", "whpk_%%", "whpk_é", "whpk_\udc80", f"{PUBLIC_KEY}AAAA"),
        *(f"whpk_{SMALL_ORDER}", f"whsk_{SMALL_ORDER}", PUBLIC_KEY.removesuffix("=")),
        whsec(b"k" * 23),
        whsec(b"k" * 65),
    ],
)
def test_a_weak_or_malformed_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidWebhook, match=r"the (secret|public key) must be") as raised:
        unwrap(BODY, headers(), [whsec(KEY), secret], now=NOW)
    encoded = secret.partition("_")[2]
    assert not encoded or encoded not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_line_break_after_a_secret_is_named() -> None:
    with pytest.raises(InvalidWebhook, match="without whitespace"):
        unwrap(BODY, headers(), f"{whsec(KEY)}\n", now=NOW)


@given(st.binary(max_size=60), st.dictionaries(st.sampled_from([*headers(), "x"]), st.text()))
def test_every_invalid_request_raises_the_same_exception(
    body: bytes, hostile_headers: dict[str, str]
) -> None:
    with pytest.raises(InvalidWebhook):
        unwrap_now(body, hostile_headers)


# Content.


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff{}", '{"a":1}'.encode("utf-16"), b"[]", b"null", b"[" * 100_000),
        *(BODY.replace(b"{", b'{"type":"a",', 1), BODY.replace(b'"\xc3\xbc"', b"1e999")),
        *(BODY.replace(b'"\xc3\xbc"', b"9" * 5_000), BODY.replace(b'"\xc3\xbc"', b"NaN")),
    ],
)
def test_a_signed_body_that_is_no_json_object_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidWebhook, match="the body"):
        unwrap_signed(body)


@given(st.dictionaries(st.text(), st.text()))
def test_every_signed_event_of_an_unknown_type_is_returned(data: dict[str, str]) -> None:
    assert unwrap_signed(ENVELOPE | {"data": data}).data == data


def test_the_id_of_an_event_is_in_the_headers_and_not_in_its_json() -> None:
    event = unwrap_signed(ENVELOPE | {"id": "in the body", "_id": "in the body"})
    assert event.id == ID
    assert event.model_dump().keys() == {"type", "timestamp", "data"}


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_an_example_of_each_type_is_unwrapped_and_written_again(event_type: EventType) -> None:
    body = example_body(event_type, "globex", now=NOW)
    event = unwrap(body, sign(body, ID, NOW, whsec(KEY)), whsec(KEY), now=NOW)
    assert (event.type, event.id, event.timestamp) == (event_type, ID, NOW)
    assert not isinstance(event, UnknownEvent)
    assert event.data.tenant == "globex"
    assert event.model_dump_json(exclude_none=True).encode() == body


@pytest.mark.parametrize("library", [standardwebhooks.Webhook, svix.webhooks.Webhook])
@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_an_example_that_is_signed_for_a_test_is_verified_by_other_libraries(
    library: Any, event_type: EventType
) -> None:
    body = example_body(event_type)
    signed = sign(body, ID, datetime.now(UTC), whsec(KEY))
    library(whsec(KEY)).verify(body, signed)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        library(whsec(KEY)).verify(body + b" ", signed)


def subject(event: Event) -> str:
    # mypy checks that each class is an event, and that there are no others.
    match event:
        case GrantsDecided() | BatchCompleted() | UploadStored() | UploadMismatched():
            return event.data.batch
        case UploadUnused() | QuotaWarning():
            return event.data.batch
        case EndpointDisabled() | EndpointTest():
            return event.data.endpoint
        case UnknownEvent():
            return event.type
        case _:
            assert_never(event)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_match_by_class_knows_the_content_of_each_type(event_type: EventType) -> None:
    assert subject(unwrap_signed(example_body(event_type))) in {BATCH, "example"}


def test_decided_items_are_grants_and_refusals_as_of_a_client() -> None:
    match unwrap_signed(example_body("grants.decided")):
        case GrantsDecided(data=data):
            grant, refusal = data.items
    assert isinstance(grant, Grant)
    assert isinstance(refusal, Refusal)
    assert (grant.method, refusal.code) == ("GET", Code.KEY_OUTSIDE_PREFIX)
    assert "Signature" not in f"{data!r} {data}"


def test_fields_of_a_later_service_are_ignored() -> None:
    payload = json.loads(example_body("upload.stored"))
    payload["later"] = payload["data"]["later"] = payload["data"]["uploads"][0]["later"] = 1
    event = unwrap_signed(payload)
    assert isinstance(event, UploadStored)
    assert not event.data.uploads[0].late


Change = Callable[[dict[str, Any]], object]


def set_fields(**values: object) -> Change:
    return lambda payload: payload.update(values)


def set_data(**values: object) -> Change:
    return lambda payload: payload["data"].update(values)


def set_item(**values: object) -> Change:
    return lambda payload: payload["data"]["items"][0].update(values)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *((lambda payload, name=name: payload.pop(name), name) for name in ENVELOPE),
        *((set_fields(**{name: None}), name) for name in ENVELOPE),
        *((set_fields(**{name: ["s3cret"]}), name) for name in ENVELOPE),
        (set_fields(timestamp="s3cret"), "timestamp"),
        (set_fields(timestamp="2026-11-24T12:00:00"), "timestamp"),
        (set_fields(timestamp=10**30), "timestamp"),
        (set_fields(type="s3cret", data="s3cret"), "data"),
        (set_data(chunk="s3cret"), "data.chunk"),
        (set_data(tenant=5), "data.tenant"),
        (set_data(items={"s3cret": 1}), "data.items"),
        (set_data(items=[5]), "data.items.0"),
        (set_data(items=[{"s3cret": 1}]), "data.items.0"),
        (set_item(fields={"s3cret": 1}), "data.items.0"),
        (set_item(expires_at="s3cret"), "data.items.0"),
    ],
)
def test_a_malformed_event_is_refused_with_its_field_and_without_its_content(
    change: Change, field: str
) -> None:
    payload = json.loads(example_body("grants.decided"))
    change(payload)
    with pytest.raises(InvalidWebhook, match=f": {field} is missing or invalid") as raised:
        unwrap_signed(payload)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(EVENT_TYPES), st.data())
def test_every_other_content_of_a_known_type_is_unwrapped_or_invalid(
    event_type: EventType, data: st.DataObject
) -> None:
    payload = json.loads(example_body(event_type))
    name = data.draw(st.sampled_from(sorted(payload["data"])))
    payload["data"][name] = data.draw(values)
    try:
        assert unwrap_signed(payload).type == event_type
    except InvalidWebhook as invalid:
        assert f"data.{name}" in str(invalid)  # noqa: PT017 - valid values are fine as well
