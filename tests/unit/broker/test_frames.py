import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.frames import TASK_ID, build_frame, call_text, celery_headers
from worker.broker.message_guard import MAX_FRAME_BYTES, ExpiredMessage, InvalidMessage, read_frame

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HUGE = 10**400
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=10,
)


def read(frame: Any) -> dict[str, Any]:
    data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    return read_frame(data, "valetkey", NOW)


def invalid_part(frame: Any) -> str:
    with pytest.raises(InvalidMessage) as caught:
        read(frame)
    return caught.value.part


def test_a_frame_of_celery_keeps_its_task_and_its_body() -> None:
    text = call_text({"key": "acme/ä.pdf"})
    frame = read(build_frame(text))
    assert frame["headers"]["task"] == "valetkey.issue"
    assert frame["headers"]["id"] == TASK_ID
    assert (frame["body"], frame["properties"]["body_encoding"]) == (text, "utf-8")


def test_a_body_without_base64_is_read_as_it_is() -> None:
    frame = build_frame(properties={"body_encoding": None}, body="[[1], {}, null]")
    assert read(frame)["body"] == "[[1], {}, null]"


def test_headers_that_tracing_libraries_add_are_removed() -> None:
    headers = celery_headers(traceparent="00-abc", baggage={"a": [1]}, **{"sentry-trace": "1"})
    assert set(read(build_frame(headers=headers))["headers"]) == set(read(build_frame())["headers"])


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NO_TRACEPARENTS: list[Any] = [
    "",
    "00-abc",
    "a" * 10_240,
    TRACEPARENT.upper(),
    f"{TRACEPARENT}\n",
    f"{TRACEPARENT}-00",
    f"01{TRACEPARENT[2:]}",
    f"00-{'0' * 32}-00f067aa0ba902b7-01",
    f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    HUGE,
    [TRACEPARENT],
]


def test_the_header_of_a_trace_is_passed_on() -> None:
    headers = read(build_frame(headers=celery_headers(traceparent=TRACEPARENT)))["headers"]
    assert headers["traceparent"] == TRACEPARENT


@pytest.mark.parametrize("value", NO_TRACEPARENTS, ids=range(len(NO_TRACEPARENTS)))
def test_another_header_of_a_trace_is_emptied_and_its_message_read(value: Any) -> None:
    headers = read(build_frame(headers=celery_headers(traceparent=value)))["headers"]
    assert headers["traceparent"] == ""


def test_the_time_at_which_a_message_was_sent_is_passed_on() -> None:
    headers = celery_headers(sent_at=1_764_158_400_000)
    assert read(build_frame(headers=headers))["headers"]["sent_at"] == 1_764_158_400_000


@pytest.mark.parametrize("sent_at", [None, True, "1764158400000", 1.5, -1, 10**16, 10**400, [], {}])
def test_another_time_is_dropped_but_not_its_message(sent_at: Any) -> None:
    assert "sent_at" not in read(build_frame(headers=celery_headers(sent_at=sent_at)))["headers"]


def test_no_answer_is_published_into_a_queue_that_the_sender_names() -> None:
    properties = read(build_frame(properties={"reply_to": "other"}))["properties"]
    assert "reply_to" not in properties


def test_a_frame_returns_to_the_queue_that_it_came_from() -> None:
    elsewhere = {"delivery_info": {"exchange": "celery", "routing_key": "celery"}}
    delivery = read(build_frame(properties=elsewhere))["properties"]["delivery_info"]
    assert (delivery["exchange"], delivery["routing_key"]) == ("", "valetkey")


def test_two_frames_never_have_the_same_delivery_tag() -> None:
    tags = [read(build_frame())["properties"]["delivery_tag"] for _ in range(2)]
    assert tags[0] != tags[1]


def test_the_eta_of_a_retry_is_passed_on_in_utc() -> None:
    headers = celery_headers(eta="2026-11-26T13:01:00+01:00", retries=1)
    assert read(build_frame(headers=headers))["headers"]["eta"] == "2026-11-26T12:01:00+00:00"


def test_a_producer_cannot_make_a_worker_hold_a_message() -> None:
    headers = celery_headers(eta="2026-11-26T12:01:00+00:00")
    assert read(build_frame(headers=headers))["headers"]["eta"] is None


def test_celery_never_learns_that_a_message_expires() -> None:
    headers = celery_headers(expires="2027-01-01T00:00:00Z")
    assert read(build_frame(headers=headers))["headers"]["expires"] is None


def test_an_expired_request_is_refused_but_no_trigger_of_a_job() -> None:
    expired = {"expires": "2026-11-26T12:00:00Z"}
    with pytest.raises(ExpiredMessage, match="expires"):
        read(build_frame(headers=celery_headers(**expired)))
    trigger = celery_headers(task="valetkey.deliver", **expired)
    assert read(build_frame(headers=trigger))["headers"]["task"] == "valetkey.deliver"


def test_the_arguments_that_a_library_writes_into_the_headers_are_not_logged() -> None:
    headers = celery_headers(argsrepr="acme/secret.pdf" * 1_000, kwargsrepr="{'key': 1}")
    assert "acme" not in json.dumps(read(build_frame(headers=headers))["headers"])


INVALID_HEADERS: list[tuple[str, list[Any]]] = [
    ("task", [None, "", 7, [], "a" * 256, "a\n"]),
    ("id", [None, "", 7, ["a"], "a" * 256, "a\x00", "\ud800"]),
    ("root_id", [7, [], "", "a" * 256]),
    ("parent_id", [7, {}, ""]),
    ("group", [7, []]),
    ("group_index", [-1, 1.5, "1", HUGE, True]),
    ("shadow", [[], 7]),
    ("retries", [-1, 21, 8 * 10**9, HUGE, "1", 1.0, True, []]),
    ("timelimit", ["soon", [1], [1, 2, 3], ["a", 1], [HUGE, 1], [-1, 0], [0, 0], {}, 7]),
    ("argsrepr", [[], 7]),
    ("kwargsrepr", [{}, 7]),
    ("origin", [7, []]),
    ("lang", [7, {}]),
    ("ignore_result", ["yes", 0, []]),
    ("replaced_task_nesting", [-1, "0", HUGE]),
    ("stamped_headers", [7, "a", [7], ["a"] * 65]),
    ("stamps", [7, [], {str(n): n for n in range(65)}]),
    ("eta", ["", "soon", 7, [], "2026-11-26T12:02:01+00:00", "9999-12-31T23:59:59Z"]),
    ("eta", ["0001-01-01T00:00:00+14:00", "2026-11-26T12:00:00+99:00", "1e400"]),
    ("expires", ["", "never", {}, 7, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]),
    ("compression", ["bzip2", "application/x-gzip", 7, ["zlib"]]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in INVALID_HEADERS for value in values]
)
def test_a_header_with_another_type_or_range_is_refused_by_its_name(name: str, value: Any) -> None:
    assert invalid_part(build_frame(headers=celery_headers(**{name: value}))) == name


@pytest.mark.parametrize(
    ("frame", "part"),
    [
        (b"", "json"),
        (b"\xff\xfe", "json"),
        (json.dumps(build_frame()).encode("utf-16"), "json"),
        (json.dumps(build_frame() | {"more": float("nan")}).encode(), "json"),
        (b"null", "json"),
        (b"[" * 200_000, "json"),
        (b"[1" + b"0" * 5_000 + b"]", "json"),
        ({str(n): n for n in range(33)}, "json"),
        (b'{"body": "a", "body": "b"}', "json"),
        (json.dumps(build_frame()).encode().replace(b'"id"', b'"id": "a", "id"', 1), "json"),
        (build_frame(content_type=["application/json"]), "content-type"),
        (build_frame(content_type="application/x-python-serialize"), "content-type"),
        (build_frame(content_type=None), "content-type"),
        (build_frame(content_encoding=7), "content-encoding"),
        (build_frame(content_encoding="utf-16"), "content-encoding"),
        (build_frame(headers=None) | {"headers": None}, "headers"),
        (build_frame(headers=celery_headers(**{f"h{n}": n for n in range(60)})), "headers"),
        (build_frame() | {"properties": None}, "properties"),
        (build_frame(properties={"correlation_id": 7}), "correlation_id"),
        (build_frame(properties={"reply_to": ["a"]}), "reply_to"),
        (build_frame(properties={"delivery_info": "a"}), "delivery_info"),
        (build_frame(properties={"priority": -1}), "priority"),
        (build_frame(properties={"priority": HUGE}), "priority"),
        (build_frame(properties={"body_encoding": "rot13"}), "body_encoding"),
        (build_frame(body=None), "body"),
        (build_frame(body=""), "body"),
        (build_frame(body=7), "body"),
        (build_frame(body="a"), "body"),
        *((build_frame(body=body), "body") for body in ("W10", "W1 0=", "W10=\n", "W1*0=", "W11=")),
        (build_frame(body=b64encode(b"\xff").decode()), "body"),
        (build_frame(properties={"body_encoding": "utf-8"}, body="\ud800"), "body"),
    ],
)
def test_another_invalid_part_is_refused_by_its_name(frame: Any, part: str) -> None:
    assert invalid_part(frame) == part


def test_a_frame_is_not_decoded_beyond_its_maximum_size() -> None:
    assert invalid_part(b" " * (MAX_FRAME_BYTES + 1)) == "size"


def test_the_largest_signed_message_fits_into_a_frame() -> None:
    token = "A" * (4 * 1024**2 * 4 // 3 + 1_000)
    assert read(build_frame(call_text(token)))["headers"]["id"] == TASK_ID


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_cause_another_error(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        read_frame(data, "valetkey", NOW)


@given(
    st.dictionaries(st.sampled_from(sorted(celery_headers())), JSON),
    st.dictionaries(st.sampled_from(["body_encoding", "delivery_info", "priority"]), JSON),
    st.dictionaries(st.sampled_from(["body", "content-type", "content-encoding"]), JSON),
)
def test_whatever_passes_has_only_types_that_celery_expects(
    headers: dict[str, Any], properties: dict[str, Any], members: dict[str, Any]
) -> None:
    frame = build_frame(headers=celery_headers(**headers), properties=properties) | members
    try:
        cleaned = read(frame)
    except InvalidMessage:
        return
    assert isinstance(cleaned["body"], str)
    assert 0 <= cleaned["headers"]["retries"] <= 20
    assert 0 <= cleaned["properties"]["priority"] <= 9
    eta = cleaned["headers"]["eta"]
    assert eta is None or datetime.fromisoformat(eta) - timedelta(days=1)
