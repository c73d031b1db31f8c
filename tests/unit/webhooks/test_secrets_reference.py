import base64
import traceback
from pathlib import Path

import pytest

from worker.errors import Transient
from worker.webhooks.webhook_rules import WebhookSecret, resolve_secrets, secret_reference_error


def format_secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


OLD, NEW = b"o" * 24, b"n" * 64
LITERAL = format_secret(OLD)


@pytest.mark.parametrize("ref", ["env:HOOK_SECRET", "file:/run/secrets/hook", "file:C:\\hook"])
def test_a_reference_to_a_variable_or_file_is_accepted(ref: str) -> None:
    assert secret_reference_error(ref) is None


@pytest.mark.parametrize(
    "ref", ["", "HOOK", "env:", "file: ", "vault:x", "ENV:HOOK", "Y2xhc3NpZmllZA=="]
)
def test_anything_else_is_refused_with_the_two_forms(ref: str) -> None:
    assert secret_reference_error(ref) == "a secret is given as env:NAME or file:PATH"


@pytest.mark.parametrize("ref", [LITERAL, f"env:{LITERAL}", f" {LITERAL}"])
def test_a_literal_secret_is_refused_with_a_hint_and_not_repeated(ref: str) -> None:
    error = secret_reference_error(ref)
    assert error is not None
    assert "would be stored" in error
    assert LITERAL not in error


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_text(f"{LITERAL}\n")
    assert resolve_secrets(f"file:{path}", {}) == [WebhookSecret(OLD)]


def test_all_secrets_of_a_rotation_are_read_in_order() -> None:
    value = f"{format_secret(NEW)}\n  {LITERAL}"
    assert resolve_secrets("env:HOOK", {"HOOK": value}) == [WebhookSecret(NEW), WebhookSecret(OLD)]


@pytest.mark.parametrize(
    "value",
    [
        *(" \n", "hush", "whsec_", "whsec_hush!", "whsec_hushü"),
        format_secret(b"k" * 23),
        format_secret(b"k" * 65),
        format_secret(b"k" * 25).rstrip("="),
        LITERAL.removeprefix("whsec_"),
        f"{LITERAL} hush",
        f"{LITERAL}!hush",
    ],
)
def test_an_error_about_an_invalid_secret_has_only_its_reference(value: str) -> None:
    with pytest.raises(Transient) as error:
        resolve_secrets("env:HOOK", {"HOOK": value})
    text = "".join(traceback.format_exception(error.value))
    assert "env:HOOK" in text
    assert "hush" not in text
    assert LITERAL not in text


def test_a_literal_secret_is_not_resolved() -> None:
    with pytest.raises(Transient, match="would be stored"):
        resolve_secrets(LITERAL, {LITERAL: LITERAL})


@pytest.mark.parametrize("content", [None, b"\xff hush"])
def test_an_unreadable_file_is_named_and_the_cause_with_its_bytes_is_not_shown(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "hook"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Transient, match=r"^file:.*hook cannot be read: .* UTF-8 text$") as error:
        resolve_secrets(f"file:{path}", {})
    assert error.value.__suppress_context__


def test_the_repr_of_a_secret_does_not_contain_it() -> None:
    text = f"{WebhookSecret(OLD)!r} {WebhookSecret(OLD)} {[WebhookSecret(OLD)]}"
    assert "ooo" not in text
    assert text == "WebhookSecret() WebhookSecret() [WebhookSecret()]"
