import base64
import json
import os
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import standardwebhooks
import svix.webhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from valetkey.webhooks import unwrap
from worker.errors import Transient
from worker.webhooks.webhook_secrets import (
    MalformedSecret,
    WebhookSecret,
    dump_secrets,
    longest_signing,
    parse_secrets,
    read_secrets,
    resolve_secrets,
    rotate_secrets,
    secret_reference_error,
    signature_headers,
)

NOW = datetime(2026, 11, 30, 10, tzinfo=UTC)


def format_secret(key: bytes, prefix: str = "whsec_") -> str:
    return f"{prefix}{base64.b64encode(key).decode()}"


OLD, NEW = b"o" * 24, b"n" * 64
LITERAL = format_secret(OLD)
# RFC 8032, section 7.1, test 1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
PRIVATE_KEY, PUBLIC_KEY = format_secret(SEED + PUBLIC, "whsk_"), format_secret(PUBLIC, "whpk_")


@pytest.mark.parametrize("ref", ["env:HOOK_SECRET", "file:/run/secrets/hook", "file:C:\\hook"])
def test_a_reference_to_a_variable_or_file_is_accepted(ref: str) -> None:
    assert secret_reference_error(ref) is None


@pytest.mark.parametrize(
    "ref", ["", "HOOK", "env:", "file: ", "vault:x", "ENV:HOOK", "Y2xhc3NpZmllZA=="]
)
def test_anything_else_is_refused_with_the_two_forms(ref: str) -> None:
    assert secret_reference_error(ref) == "a secret is given as env:NAME or file:PATH"


@pytest.mark.parametrize("ref", [LITERAL, f"env:{LITERAL}", f" {LITERAL}", PRIVATE_KEY])
def test_a_literal_secret_is_refused_with_a_hint_and_not_repeated(ref: str) -> None:
    error = secret_reference_error(ref)
    assert error is not None
    assert "would be stored" in error
    assert ref.strip() not in error


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_text(f"{LITERAL}\n")
    assert read_secrets(f"file:{path}", {}) == [WebhookSecret(OLD)]


def test_all_secrets_of_a_rotation_are_read_in_order() -> None:
    value = f"{format_secret(NEW)}\n  {LITERAL}"
    assert read_secrets("env:HOOK", {"HOOK": value}) == [WebhookSecret(NEW), WebhookSecret(OLD)]


@pytest.mark.parametrize(
    "value",
    [
        *(" \n", "hush", "whsec_", "whsec_hush!", "whsec_hushü"),
        *(format_secret(b"k" * 23), format_secret(b"k" * 65)),
        format_secret(b"k" * 25).rstrip("="),
        *(LITERAL.removeprefix("whsec_"), f"{LITERAL} hush", f"{LITERAL}!hush"),
        *("whsk_", "whsk_hush!", format_secret(SEED[1:], "whsk_"), PUBLIC_KEY),
        format_secret(SEED + PUBLIC[1:], "whsk_"),
        format_secret(SEED + SEED, "whsk_"),
        *("until 2026-12-01", f"until 2026-12-01 {LITERAL}", f"{LITERAL} until"),
        *(f"{LITERAL} until hush", f"{LITERAL} until {LITERAL}", f"{LITERAL} until tomorrow"),
        f"{LITERAL} until 2026-12-01T08:00",
        f"{LITERAL} until 0001-01-01T00:00+23:59",
        f"{LITERAL} until 2026-12-01 until 2026-12-01",
    ],
)
def test_an_error_about_an_invalid_secret_has_only_its_reference(value: str) -> None:
    with pytest.raises(MalformedSecret) as error:
        read_secrets("env:HOOK", {"HOOK": value})
    text = "".join(traceback.format_exception(error.value))
    assert "env:HOOK" in text
    assert "hush" not in text
    assert LITERAL not in text


def test_a_literal_secret_is_not_resolved() -> None:
    with pytest.raises(Transient, match="would be stored"):
        read_secrets(LITERAL, {LITERAL: LITERAL})


@pytest.mark.parametrize("content", [None, b"\xff hush"])
def test_an_unreadable_file_is_named_and_the_cause_with_its_bytes_is_not_shown(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "hook"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Transient, match=r"^file:.*hook cannot be read: .* UTF-8 text$") as error:
        read_secrets(f"file:{path}", {})
    assert error.value.__suppress_context__


@pytest.mark.parametrize("name", ["/dev/zero", "fifo", "."])
def test_what_is_no_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(Transient, match="cannot be read: a regular file must exist"):
        read_secrets(f"file:{name}", {})


def test_the_repr_of_a_secret_does_not_contain_it() -> None:
    text = f"{WebhookSecret(OLD)!r} {WebhookSecret(OLD)} {[WebhookSecret(OLD)]}"
    assert "ooo" not in text
    assert text == " ".join(("WebhookSecret(scheme='v1', until=None)",) * 2) + (
        " [WebhookSecret(scheme='v1', until=None)]"
    )


@pytest.mark.parametrize("key", [SEED, SEED + PUBLIC])
def test_a_private_key_is_read_with_and_without_its_public_key(key: bytes) -> None:
    (secret,) = parse_secrets(format_secret(key, "whsk_"))
    assert (secret.dump(), secret.public_key) == (PRIVATE_KEY, PUBLIC_KEY)


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("2026-12-01", datetime(2026, 12, 1, tzinfo=UTC)),
        ("2026-12-01T08:00Z", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-12-01T09:30:15+01:00", datetime(2026, 12, 1, 8, 30, 15, tzinfo=UTC)),
    ],
)
def test_a_secret_signs_until_the_time_that_follows_it(text: str, until: datetime) -> None:
    (secret, other) = parse_secrets(f"{LITERAL}\n  until {text}\n\n{format_secret(NEW)}\n")
    assert (secret.until, other.until) == (until, None)
    assert secret.signs_at(until - timedelta(microseconds=1))
    assert not secret.signs_at(until)


times = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - with a zone
ends = st.none() | times
any_secrets = st.builds(
    WebhookSecret, st.binary(min_size=24, max_size=64), st.just("v1"), ends
) | st.builds(WebhookSecret, st.binary(min_size=32, max_size=32), st.just("v1a"), ends)


@given(st.lists(any_secrets, min_size=1))
def test_secrets_that_are_written_are_read_again(secrets: list[WebhookSecret]) -> None:
    assert parse_secrets(dump_secrets(secrets)) == secrets


def parsing_error(text: str) -> str:
    try:
        parse_secrets(text)
    except ValueError as error:
        return "".join(traceback.format_exception(error))
    return ""


@given(
    st.lists(st.sampled_from([LITERAL, PRIVATE_KEY, "until", "2026-12-01"]) | st.text(), max_size=6)
)
def test_any_text_is_parsed_or_refused_with_a_form_and_no_secret(words: list[str]) -> None:
    error = parsing_error(" ".join(words))
    assert not error or "each must be whsec_" in error or "until is followed by" in error
    assert LITERAL not in error
    assert PRIVATE_KEY not in error


@given(
    st.lists(any_secrets, min_size=1), any_secrets, times, st.timedeltas(timedelta(0), timedelta(9))
)
def test_a_rotation_ends_every_old_secret_with_the_overlap_and_delays_no_end(
    old: list[WebhookSecret], new: WebhookSecret, now: datetime, overlap: timedelta
) -> None:
    first, *rest = rotate_secrets(old, new, now, overlap)
    assert first == new
    for key in {secret.key for secret in old}:
        ends = [each.until or now + overlap for each in old if each.key == key]
        kept = [each.until for each in rest if each.key == key]
        assert kept == [min(end, now + overlap) for end in ends if min(end, now + overlap) > now]


@given(st.lists(any_secrets, min_size=1))
def test_after_the_end_of_the_one_that_signs_longest_none_signs(
    secrets: list[WebhookSecret],
) -> None:
    end = longest_signing(secrets).until
    assert any(secret.until is None for secret in secrets) == (end is None)
    if end is not None:
        assert not any(secret.signs_at(end) for secret in secrets)
        assert any(secret.signs_at(end - timedelta(microseconds=1)) for secret in secrets)


def test_only_secrets_in_force_sign_and_the_end_of_the_last_one_is_a_failure() -> None:
    value = f"{LITERAL} until 2026-11-30T10:00Z {format_secret(NEW)} until 2026-12-01"
    environ = {"HOOK": value}
    (secret,) = resolve_secrets("env:HOOK", environ, NOW)
    assert secret.key == NEW
    with pytest.raises(Transient, match=r"^env:HOOK has no secret that signs: the last one ended$"):
        resolve_secrets("env:HOOK", environ, NOW + timedelta(days=1))


BODY = '{"type":"endpoint.test","label":"ü"}'.encode()
BOTH = parse_secrets(f"{PRIVATE_KEY} {LITERAL}")


def test_a_webhook_that_two_kinds_of_secrets_sign_is_verified_by_the_reference_library() -> None:
    signed = signature_headers(BOTH, "msg_0199", datetime.now(UTC), BODY)
    assert standardwebhooks.Webhook(LITERAL).verify(BODY, signed) == json.loads(BODY)


def test_a_webhook_that_two_kinds_of_secrets_sign_is_verified_by_svix() -> None:
    signed = signature_headers(BOTH, "msg_0199", datetime.now(UTC), BODY)
    svix.webhooks.Webhook(LITERAL).verify(BODY, signed)
    with pytest.raises(svix.webhooks.WebhookVerificationError):
        svix.webhooks.Webhook(LITERAL).verify(BODY + b" ", signed)


def test_the_public_key_alone_verifies_the_asymmetric_signature() -> None:
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(PUBLIC_KEY.removeprefix("whpk_")))
    signed = signature_headers(BOTH, "msg_0199", NOW, BODY)
    version, _, signature = signed["webhook-signature"].split(" ")[0].partition(",")
    assert version == "v1a"
    content = f"msg_0199.{int(NOW.timestamp())}.".encode() + BODY
    key.verify(base64.b64decode(signature), content)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(signature), content + b" ")


def test_a_receiver_of_the_client_library_verifies_with_the_secret_or_with_the_public_key() -> None:
    body = b'{"type":"a.later.type","timestamp":"2026-11-30T10:00:00Z","data":{}}'
    signed = signature_headers(BOTH, "msg_0199", NOW, body)
    for secret in (LITERAL, PUBLIC_KEY):
        assert unwrap(body, signed, secret, now=NOW).id == "msg_0199"
