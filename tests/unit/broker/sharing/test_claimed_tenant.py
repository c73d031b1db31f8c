import json
import re
from base64 import b64encode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.frames import TASK_ID, message_frame
from tests.support.builders.messages import grant_message
from tests.support.crypto.tokens import sign_message
from tests.support.fakes.pending_requests import small_request
from valetkey.crypto.keys import generate_key
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.pending import build_bundle
from valetkey.wire.terms import NAME_PATTERN
from valetkey.wire.waiting import PROBE_TENANT
from worker.broker.lanes import PREFIX_BYTES, UNKNOWN_TENANT, claimed_tenant
from worker.doctor.feature import PROBE_TASK
from worker.features import TASKS

KEY = generate_key("acme/billing")
SIGNED = sign_message(grant_message(["acme/a"] * 20), KEY, datetime(2026, 11, 24, tzinfo=UTC))


def claim(argument: Any) -> str:
    return claimed_tenant(message_frame(argument, TASK_ID).encode()[:PREFIX_BYTES])


def body_claim(body: str) -> str:
    return claimed_tenant(json.dumps({"body": body}).encode())


def token(header: Any) -> str:
    return urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=") + ".e30.AAAA"


def test_an_unsigned_message_claims_the_tenant_that_it_names() -> None:
    assert claim(grant_message(tenant="globex")) == "globex"


def test_a_probe_waits_in_a_lane_that_no_tenant_has() -> None:
    assert claim({"tenant": PROBE_TENANT}) == PROBE_TENANT
    assert not re.fullmatch(NAME_PATTERN, PROBE_TENANT)


def test_a_claim_to_be_a_tenant_that_does_not_exist_does_not_count() -> None:
    frame = message_frame(grant_message(tenant="made-up"), TASK_ID).encode()
    assert claimed_tenant(frame, {"acme"}) == UNKNOWN_TENANT
    assert claimed_tenant(frame, {"acme", "made-up"}) == "made-up"


def test_workers_take_a_probe_from_each_queue_to_which_a_lane_returns_it() -> None:
    assert set(TASKS[PROBE_TASK].queues) == {BULK_QUEUE, INTERACTIVE_QUEUE}


def test_a_message_longer_than_the_prefix_is_classified_too() -> None:
    assert claim(grant_message(["k" * 1_000] * 1_000)) == "acme"


def test_a_bundle_claims_its_tenant_and_is_as_long_as_its_messages() -> None:
    requests = [small_request() for _ in range(64)]
    messages = [request.next_message(1) for request in requests]
    bundle = build_bundle([message for message in messages if message])
    assert claim(bundle.body) == "acme"
    # The fair queue charges the length of a frame to its tenant.
    alone = message_frame(bundle.body["messages"][0], TASK_ID)
    assert len(message_frame(bundle.body, TASK_ID)) > 16 * len(alone)


def test_a_body_that_is_not_base64_is_read_as_json() -> None:
    assert body_claim(json.dumps([[grant_message()], {}, {}])) == "acme"


def test_a_body_of_lax_base64_is_unknown_as_the_worker_refuses_it() -> None:
    body = b64encode(json.dumps([[grant_message()], {}, {}]).encode()).decode()
    assert body_claim(body) == "acme"
    assert body_claim(f"{body[:8]}!!!!{body[8:]}") == UNKNOWN_TENANT


@pytest.mark.parametrize(
    "argument",
    [
        *(None, 7, [], "text", "e30.e30.", "!." * 50, {}, token([])),
        *(
            {"tenant": name}
            for name in (None, ["acme"], "ACME", "a" * 64, "acme.bulk", "?", "acme\n")
        ),
        *(token({"kid": key_id}) for key_id in (7, "/x", "a:b/x")),
    ],
)
def test_a_message_without_a_readable_tenant_is_unknown(argument: Any) -> None:
    assert claim(argument) == UNKNOWN_TENANT


def test_a_body_that_the_guard_cannot_decode_claims_no_tenant() -> None:
    body = b64encode(json.dumps([[grant_message()], {}, {}]).encode()).decode()
    assert body_claim(f"{body[:4]}\n{body[4:]}") == UNKNOWN_TENANT


def test_a_header_with_two_key_ids_claims_no_tenant() -> None:
    header = urlsafe_b64encode(b'{"kid":"acme/x","kid":"globex/x"}').decode().rstrip("=")
    assert claim(f"{header}.e30.AAAA") == UNKNOWN_TENANT


@pytest.mark.parametrize(
    "body",
    [
        *("", "A", "é" * 10, "[]", "[[]]", '{"args": []}', "[" * 2_000, "[[1" + "0" * 1_900),
        *(
            b64encode(text).decode()
            for text in (b"[" * 1_500, b'[[{"a":' * 200, b"[[" + b"\xff" * 99)
        ),
        f'[["{token({"kid": "acme/x"})[:-10]}',
    ],
)
def test_a_hostile_body_is_unknown(body: str) -> None:
    assert body_claim(body) in {UNKNOWN_TENANT, "acme"}
    assert claimed_tenant(body.encode()) == UNKNOWN_TENANT


@pytest.mark.parametrize("argument", [SIGNED, grant_message(tenant="acme")])
def test_a_frame_that_is_cut_off_claims_its_tenant_or_none(argument: Any) -> None:
    frame = message_frame(argument, TASK_ID).encode()
    claims = {claimed_tenant(frame[:length]) for length in range(PREFIX_BYTES)}
    assert claims == {UNKNOWN_TENANT, "acme"}


@given(st.binary(max_size=PREFIX_BYTES))
def test_any_bytes_have_a_claim(prefix: bytes) -> None:
    assert isinstance(claimed_tenant(prefix), str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, JSON)
def test_any_frame_has_a_claim(value: Any, body: Any) -> None:
    encoded = b64encode(json.dumps([[body]]).encode()).decode()
    frames = [value, {"body": value}, {"body": encoded}, {"body": json.dumps(value)}]
    for frame in frames:
        assert isinstance(claimed_tenant(json.dumps(frame).encode()), str)
