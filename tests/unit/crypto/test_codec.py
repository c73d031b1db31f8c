import json
from typing import Any

import pytest

from tests.support.crypto.tokens import public_key
from valetkey.crypto.codec import PLAIN_CODES, Codec, DecodedResult
from valetkey.crypto.jose import SignedToken
from valetkey.crypto.keys import generate_key
from valetkey.errors import SealedForAnotherKey, UnreadableReply
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Cancelled, Explanation, Outcome, Usage
from worker.issue.dispatch import seal

KEY, OTHER_KEY = generate_key("acme/2026-11"), generate_key("acme/2026-10")
KEYED, PLAIN = Codec(KEY), Codec(None)
GRANT = {"id": "b.0", "key": "a", "method": "GET", "url": "https://s3cret.example/"} | {
    "expires_at": "2026-11-24T12:00:00Z",
    "limited_by": "request",
}
LONG = "\x1b[2J" + "x" * 200
ISSUED = {"batch": "b", "chunk": 0, "status": "issued", "items": [GRANT]}


def refused_outcome(code: str, **fields: Any) -> dict[str, Any]:
    refusal = {"code": code, "field": "kid", "message": "no"}
    return {"batch": "", "chunk": 0, "status": "refused", "refusal": refusal} | fields


def celery_result(payload: Any) -> str:
    return json.dumps({"status": "SUCCESS", "result": payload})


def sealed(reply: Any) -> str:
    return seal(json.dumps(reply).encode(), KEY.id, public_key(KEY))


def decode(payload: Any, codec: Codec = KEYED) -> DecodedResult:
    return codec.decode(celery_result(payload))


def test_without_a_key_a_message_is_plain() -> None:
    message = {"v": 1, "tenant": "acme"}
    assert PLAIN.encode(message) is message


@pytest.mark.parametrize("message", [{"v": 1, "tenant": "acme"}, {"items": [{"key": "\udcff"}]}])
def test_any_message_is_signed_with_the_time_of_encoding(message: dict[str, Any]) -> None:
    times = iter([100.9, 205.1])
    codec = Codec(KEY, clock=times.__next__)
    for expected in (100, 205):
        token = codec.encode(message)
        assert isinstance(token, str)
        assert json.loads(SignedToken(token).verify(public_key(KEY))) == message | {"iat": expected}


REPORTED: dict[str, Any] = {"status": "reported", "tenant": "acme", "quotas": []}
CANCELLED: dict[str, Any] = {"status": "cancelled", "batch": "b", "issued": 1, "released": 2}
EXPLAINED: dict[str, Any] = {"status": "explained", "decision": "issue", "rules": []}
QUOTA = {"metric": "grants", "window": "day", "limit": 1, "used": 9}


@pytest.mark.parametrize(
    ("reply", "reply_class"),
    [
        *((ISSUED, Outcome), (refused_outcome("quota_exceeded"), Outcome), (REPORTED, Usage)),
        *((CANCELLED, Cancelled), (EXPLAINED, Explanation)),
    ],
)
def test_a_reply_is_parsed_by_its_status(reply: Any, reply_class: type) -> None:
    assert isinstance(decode(sealed(reply)), reply_class)
    assert isinstance(decode(reply, PLAIN), reply_class)


def test_a_refused_object_key_with_a_lone_surrogate_is_parsed() -> None:
    item = {"code": "key_invalid", "field": "key", "message": "no", "key": "\udcff"}
    reply = ISSUED | {"items": [item]}
    for outcome in (decode(sealed(reply)), decode(reply, PLAIN)):
        assert isinstance(outcome, Outcome)
        assert outcome.items[0].key == "\udcff"


LATER_CODE = "token_too_deep"  # that only a later service has


@pytest.mark.parametrize("code", [*sorted(PLAIN_CODES), LATER_CODE])
def test_a_refusal_of_an_unread_message_may_be_plain(code: str) -> None:
    outcome = decode(refused_outcome(str(code)))
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.refusal, Refusal)
    assert outcome.refusal.code == code
    assert isinstance(outcome.refusal.code, Code) == (code != LATER_CODE)


@pytest.mark.parametrize("code", sorted(set(Code) - PLAIN_CODES))
def test_any_other_plain_refusal_counts_as_failed(code: Code) -> None:
    assert decode(refused_outcome(code.value)) == "failed"


@pytest.mark.parametrize(
    "reply",
    [
        *(ISSUED, REPORTED | {"quotas": [QUOTA]}, CANCELLED, EXPLAINED),
        refused_outcome("key_unknown", quotas=[QUOTA]),
        refused_outcome("key_unknown", items=[GRANT]),
        refused_outcome("token_too_deep", items=[GRANT]),
        {"status": "granted", "url": "https://s3cret.example/"},
    ],
)
def test_a_codec_with_a_key_accepts_no_other_plain_reply(reply: Any) -> None:
    assert decode(reply) == "failed"


def test_a_reply_sealed_to_another_key_raises_an_error_that_names_the_key() -> None:
    token = seal(json.dumps(ISSUED).encode(), OTHER_KEY.id, public_key(OTHER_KEY))
    text = "'acme/2026-10', which this client"
    for codec in (KEYED, PLAIN):
        with pytest.raises(SealedForAnotherKey, match=text) as caught:
            decode(token, codec)
        assert caught.value.key_id == "acme/2026-10"
        assert "s3cret" not in str(caught.value)


LATER_REPLIES = [
    {"status": "granted", "url": "https://s3cret.example/"},
    ISSUED | {"items": [{"key": "a", "later": "https://s3cret.example/"}]},
    ISSUED | {"chunk": "https://s3cret.example/"},
]


@pytest.mark.parametrize("reply", LATER_REPLIES)
def test_a_reply_of_a_later_service_raises_an_error_that_names_its_status(reply: Any) -> None:
    for payload, codec in ((sealed(reply), KEYED), (reply, PLAIN)):
        with pytest.raises(UnreadableReply, match="service is newer than this client") as caught:
            decode(payload, codec)
        assert caught.value.status == reply["status"]
        assert caught.value.__context__ is None  # a ValidationError would contain the reply
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (sealed({"status": LONG}), UnreadableReply),
        (seal(b"{}", LONG, public_key(OTHER_KEY)), SealedForAnotherKey),
    ],
    ids=["status", "id of a key"],
)
def test_what_is_unknown_is_shortened_and_escaped(result: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        decode(result)
    assert "\x1b" not in str(caught.value)
    assert "x" * 130 not in str(caught.value)


JUNK: dict[str, bytes | str] = {
    "sealed with another key": celery_result(seal(b"{}", KEY.id, public_key(OTHER_KEY))),
    "cut off": celery_result(sealed(ISSUED)[:-3]),
    "no text": b"\xff",
    "deep": b"[" * 100_000,
    "two statuses": '{"status": "PENDING", "status": "RETRY"}',
    "a word": celery_result("?"),
    "dots": celery_result("." * 4),
    "null": celery_result(None),
    "no status": celery_result({"batch": "b", "items": []}),
    "a status that is no text": celery_result({"status": 7}),
    "a failure": json.dumps({"status": "FAILURE", "result": {"exc_type": "x"}}),
    "revoked": json.dumps({"status": "REVOKED"}),
}


@pytest.mark.parametrize("raw", JUNK.values(), ids=list(JUNK))
def test_a_result_that_is_no_reply_counts_as_failed(raw: bytes | str) -> None:
    assert KEYED.decode(raw) == "failed"


@pytest.mark.parametrize("name", sorted(JUNK.keys() - {"sealed with another key", "cut off"}))
def test_it_counts_as_failed_without_a_key_as_well(name: str) -> None:
    assert PLAIN.decode(JUNK[name]) == "failed"


@pytest.mark.parametrize("reply", [{"status": 7}, [], None, {}, "granted"])
def test_a_sealed_value_that_is_no_reply_counts_as_failed(reply: Any) -> None:
    assert decode(sealed(reply)) == "failed"


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "RETRY"])
def test_an_unfinished_task_counts_as_working(status: str) -> None:
    assert KEYED.decode(json.dumps({"status": status, "result": None})) == "working"
