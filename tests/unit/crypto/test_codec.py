import json
from typing import Any

import pytest

from tests.support.crypto.keys import public_half
from valetkey.crypto.codec import Codec, DecodedResult
from valetkey.crypto.jose import SignedToken
from valetkey.crypto.keys import generate_key
from valetkey.errors import SealedForAnotherKey
from valetkey.wire.messages import Cancelled, Explanation, Grant, Outcome, Usage
from valetkey.wire.refusals import UNAUTHENTICATED, Code, Refusal
from worker.core.auth.seal import seal

KEY, OTHER = generate_key("acme/2026-11"), generate_key("acme/2026-10")
SEALED, PLAIN = Codec(KEY), Codec(None)
GRANT = {
    "id": "b.0",
    "key": "a",
    "method": "GET",
    "url": "https://s3cret.example/",
    "expires_at": "2026-11-24T12:00:00Z",
    "limited_by": "request",
}
ISSUED = {"batch": "b", "chunk": 0, "status": "issued", "items": [GRANT]}


def refused(code: str, **more: Any) -> dict[str, Any]:
    refusal = {"code": code, "field": "kid", "message": "no"}
    return {"batch": "", "chunk": 0, "status": "refused", "refusal": refusal} | more


def result(said: Any) -> str:
    return json.dumps({"status": "SUCCESS", "result": said})


def sealed(said: Any) -> str:
    return seal(json.dumps(said).encode(), KEY.id, public_half(KEY))


def opened(said: Any, codec: Codec = SEALED) -> DecodedResult:
    return codec.decode(result(said))


def test_without_a_key_a_message_goes_as_it_is_and_its_answer_comes_so() -> None:
    message = {"v": 1, "tenant": "acme"}
    assert PLAIN.encode(message) is message
    answer = opened(ISSUED, PLAIN)
    assert isinstance(answer, Outcome)
    assert isinstance(answer.items[0], Grant)


def test_a_message_is_signed_with_the_moment_it_is_sent() -> None:
    moments = iter([100.9, 205.1])
    codec = Codec(KEY, now=moments.__next__)
    for moment in (100, 205):
        token = codec.encode({"v": 1, "tenant": "acme"})
        assert isinstance(token, str)
        content = json.loads(SignedToken(token).content(public_half(KEY)))
        assert content == {"v": 1, "tenant": "acme", "iat": moment}


def test_a_key_that_is_no_text_is_signed_all_the_same() -> None:
    token = SEALED.encode({"items": [{"key": "\udcff"}]})
    assert isinstance(token, str)
    assert json.loads(SignedToken(token).content(public_half(KEY)))["items"] == [{"key": "\udcff"}]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (ISSUED, Outcome),
        (refused("quota_exceeded"), Outcome),
        ({"status": "told", "tenant": "acme", "quotas": []}, Usage),
        ({"status": "cancelled", "batch": "b", "issued": 1, "released": 2}, Cancelled),
        ({"status": "explained", "decision": "issue", "rules": []}, Explanation),
    ],
)
def test_a_sealed_answer_is_read_by_its_status(said: Any, kind: type) -> None:
    assert isinstance(opened(sealed(said)), kind)
    assert isinstance(opened(said, PLAIN), kind)


def test_a_refused_key_that_is_no_text_is_read_all_the_same() -> None:
    item = {"code": "key_invalid", "field": "key", "message": "no", "key": "\udcff"}
    said = ISSUED | {"items": [item]}
    for answer in (opened(sealed(said)), opened(said, PLAIN)):
        assert isinstance(answer, Outcome)
        assert answer.items[0].key == "\udcff"


@pytest.mark.parametrize("code", sorted(UNAUTHENTICATED))
def test_who_is_not_known_is_told_so_unsealed(code: Code) -> None:
    answer = opened(refused(code.value))
    assert isinstance(answer, Outcome)
    assert isinstance(answer.refusal, Refusal)
    assert answer.refusal.code is code


@pytest.mark.parametrize("code", sorted(set(Code) - UNAUTHENTICATED))
def test_any_other_refusal_that_is_not_sealed_is_no_answer(code: Code) -> None:
    assert opened(refused(code.value)) == "failed"


QUOTA = {"metric": "grants", "window": "day", "limit": 1, "used": 9}


@pytest.mark.parametrize(
    "said",
    [
        ISSUED,
        {"status": "told", "tenant": "acme", "quotas": [QUOTA]},
        {"status": "cancelled", "batch": "b", "issued": 1, "released": 2},
        {"status": "explained", "decision": "issue", "rules": []},
        refused("key_unknown", quotas=[QUOTA]),
        refused("key_unknown", items=[GRANT]),
    ],
)
def test_what_is_not_sealed_is_no_answer_to_whoever_has_a_key(said: Any) -> None:
    assert opened(said) == "failed"


def test_an_answer_sealed_to_another_key_names_that_key_alone() -> None:
    token = seal(json.dumps(ISSUED).encode(), OTHER.id, public_half(OTHER))
    for codec in (SEALED, PLAIN):
        with pytest.raises(
            SealedForAnotherKey, match="'acme/2026-10', which this client"
        ) as caught:
            opened(token, codec)
        assert caught.value.key_id == "acme/2026-10"
        assert "s3cret" not in str(caught.value)


def test_a_foreign_key_id_moves_no_cursor() -> None:
    token = seal(b"{}", "\x1b[2J" + "x" * 200, public_half(OTHER))
    with pytest.raises(SealedForAnotherKey) as caught:
        opened(token)
    assert "\x1b" not in str(caught.value)
    assert "x" * 130 not in str(caught.value)


def test_an_answer_that_only_claims_to_be_sealed_to_us_is_no_answer() -> None:
    assert opened(seal(b"{}", KEY.id, public_half(OTHER))) == "failed"
    assert opened(sealed(ISSUED)[:-3]) == "failed"


JUNK = {
    "nothing": b"",
    "no text": b"\xff",
    "deep": b"[" * 100_000,
    "a word": result("?"),
    "dots": result("." * 4),
    "null": result(None),
    "a list": result([ISSUED]),
    "no such status": result({"status": "granted"}),
    "a failure": json.dumps({"status": "FAILURE", "result": {"exc_type": "x"}}),
    "revoked": json.dumps({"status": "REVOKED"}),
}


@pytest.mark.parametrize("raw", JUNK.values(), ids=list(JUNK))
def test_what_is_no_answer_is_as_good_as_none(raw: bytes | str) -> None:
    assert SEALED.decode(raw) == "failed"
    assert PLAIN.decode(raw) == "failed"


@pytest.mark.parametrize("said", [{"status": "granted"}, [], None, {}])
def test_what_is_sealed_and_no_answer_is_as_good_as_none(said: Any) -> None:
    assert opened(sealed(said)) == "failed"


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "RETRY"])
def test_a_task_that_is_still_at_work_has_not_failed(status: str) -> None:
    assert SEALED.decode(json.dumps({"status": status, "result": None})) == "working"
