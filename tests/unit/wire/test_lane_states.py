"""The states of lanes, which anyone at the broker can forge: a client must not wait for years."""

from typing import Any

import pytest

from valetkey.wire.waiting import (
    DEFAULT_MAX_MESSAGES,
    MAX_BUSY_SECONDS,
    MIN_MAX_MESSAGES,
    LaneState,
    dump_lane_state,
    read_lane_state,
)

SERVICE = dump_lane_state(500, {}).encode()


def test_without_a_process_that_serves_lanes_there_is_no_state() -> None:
    assert read_lane_state((dump_lane_state(100, {}).encode(), None), "acme") is None


def test_a_tenant_without_a_state_has_the_services_limit() -> None:
    assert read_lane_state((None, SERVICE), "acme") == LaneState(500)


def test_a_lane_is_busy_only_if_it_is_named() -> None:
    values = (dump_lane_state(100, {"acme.bulk": 7}).encode(), SERVICE)
    assert read_lane_state(values, "acme.bulk") == LaneState(100, 7)
    assert read_lane_state(values, "acme") == LaneState(100)


@pytest.mark.parametrize(
    "seconds", ["1e300", "-5", "true", '"9"', "[]", "NaN", "9" * 5_000, "0", "null"]
)
def test_a_time_that_no_service_wrote_is_ignored(seconds: str) -> None:
    text = f'{{"lanes": {{"acme": {seconds}}}}}'
    assert read_lane_state((text.encode(), SERVICE), "acme") == LaneState(500)


def test_no_client_waits_for_longer_than_a_minute() -> None:
    text = dump_lane_state(100, {"acme": 10**12})
    assert read_lane_state((text.encode(), SERVICE), "acme") == LaneState(100, MAX_BUSY_SECONDS)


@pytest.mark.parametrize("value", [b"", b"[1]", b"\xff", b"{" * 900, b"[" * 10**6, "text", 7])
def test_junk_in_the_place_of_states_leaves_the_defaults(value: Any) -> None:
    assert read_lane_state((value, value), "acme") == LaneState(DEFAULT_MAX_MESSAGES)


def test_a_limit_below_what_one_batch_needs_is_raised_to_that() -> None:
    assert read_lane_state((b'{"max_messages": 1}', SERVICE), "acme") == LaneState(MIN_MAX_MESSAGES)
