import itertools
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.broker.sharing.conftest import Queues, frame_name, numbered
from valetkey.wire.waiting import LANE_STATES, SERVED_MARK, SERVICE_FIELD
from worker.broker.fair_queue import (
    BULK_LIMIT,
    INTERACTIVE_LIMIT,
    STATES_LIFETIME,
    QueueSharing,
)
from worker.broker.lanes import LaneLimits
from worker.broker.queues import waiting_lanes
from worker.shared.worker_states import queue_lengths


def test_queues_within_the_limits_are_left_alone(queues: Queues) -> None:
    queues.put(numbered("acme", INTERACTIVE_LIMIT))
    queues.put(numbered("acme", BULK_LIMIT), "valetkey.bulk")
    names = ("valetkey", "valetkey.bulk")
    before = [queues.client.lrange(name, 0, -1) for name in names]
    assert not queues.run_pass()
    assert [queues.client.lrange(name, 0, -1) for name in names] == before
    assert sorted(queues.client.keys()) == [b"valetkey", b"valetkey.bulk"]


def test_a_tenant_over_the_limit_leaves_the_queue_to_the_others(queues: Queues) -> None:
    queues.put([*numbered("flood", 300), *numbered("calm", 10)])
    assert queues.run_pass()
    assert queues.take("valetkey") == numbered("calm", 10)
    assert waiting_lanes(queues.client) == ["flood"]


def test_every_message_of_a_tenant_is_served_in_order_and_nothing_is_left(queues: Queues) -> None:
    queues.put(numbered("flood", 1_200))
    assert queues.serve_all() == numbered("flood", 1_200)
    assert not queues.run_pass()
    assert queues.client.keys() == []


def test_later_messages_of_a_waiting_tenant_wait_behind_its_earlier_ones(queues: Queues) -> None:
    queues.put(numbered("flood", 100))
    queues.run_pass()
    queues.put(["flood/last"])
    assert queues.serve_all() == [*numbered("flood", 100), "flood/last"]


def test_small_requests_of_a_tenant_do_not_wait_behind_its_own_bulk(queues: Queues) -> None:
    queues.put(numbered("flood", 50))
    queues.put(numbered("acme", 50), "valetkey.bulk")
    queues.run_pass()
    assert "acme.bulk" in waiting_lanes(queues.client)
    queues.put(["acme/now"])
    queues.run_pass()
    assert queues.take("valetkey") == ["acme/now"]


def test_a_served_message_is_the_same_json_and_is_not_moved_again(queues: Queues) -> None:
    queues.put(numbered("flood", 20))
    original = queues.client.lindex("valetkey", -1)
    queues.run_pass()
    for _ in range(5):
        queues.run_pass()
    served = queues.client.lindex("valetkey.bulk", -1)
    assert isinstance(original, bytes)
    assert served == original + SERVED_MARK.encode()
    assert json.loads(served) == json.loads(original)


def test_another_process_continues_where_one_was_killed(queues: Queues) -> None:
    queues.put(numbered("flood", 100))
    queues.run_pass()
    queues.sharing = QueueSharing(queues.client)
    queues.sharing.load_lanes()
    assert queues.serve_all() == numbered("flood", 100)


def test_messages_that_workers_took_meanwhile_are_not_moved(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues.put(numbered("flood", 100))
    frames: list[Any] = []
    take = lambda: frames.extend(queues.client.rpop("valetkey", 30) or ())  # noqa: E731 - one use
    queues.act_before_move(take, monkeypatch)
    queues.run_pass()
    taken = [frame_name(frame) for frame in frames]
    assert taken + queues.serve_all() == numbered("flood", 100)


def test_a_message_of_another_tenant_is_not_moved_instead_of_one_that_was_taken(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for n in range(10) for name in (f"flood/{n}a", f"flood/{n}b", f"calm/{n}")]
    queues.put(names)
    queues.act_before_move(lambda: queues.client.rpop("valetkey", 4), monkeypatch)
    queues.run_pass()
    assert queues.take("valetkey") == [f"calm/{n}" for n in range(1, 10)]


def test_a_message_that_returned_meanwhile_is_not_lost(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues.put(numbered("flood", 100))
    returned = queues.client.lpop("valetkey")
    assert isinstance(returned, bytes)
    queues.act_before_move(lambda: queues.client.rpush("valetkey", returned), monkeypatch)
    assert sorted(queues.serve_all()) == sorted(numbered("flood", 100))


@pytest.mark.parametrize("key", ["valetkey.waiting:flood", "valetkey.waiting"])
def test_a_key_of_another_type_loses_nothing(queues: Queues, key: str) -> None:
    queues.put([*numbered("flood", 50), *numbered("other", 50)])
    queues.client.set(key, "something else")
    queues.run_pass()
    queues.run_pass()
    queues.client.delete(key)
    names = [name for name in queue_lengths(queues.client) if name != "valetkey.bulk"]
    lanes = {"valetkey.waiting:flood", "valetkey.waiting:other", *names}
    remaining = [name for lane in sorted(lanes) for name in queues.take(lane)]
    remaining += queues.take("valetkey.bulk")
    assert sorted(remaining) == sorted(numbered("flood", 50) + numbered("other", 50))


def test_a_frame_that_is_no_message_waits_like_others(queues: Queues) -> None:
    frames = [*[f"garbage {number}" for number in range(50)], "[" * 100_000, "\x00" * 9]
    queues.client.lpush("valetkey", *frames)
    queues.run_pass()
    assert waiting_lanes(queues.client) == ["?"]
    served: list[str] = []
    while len(served) < len(frames):
        queues.run_pass()
        while isinstance(frame := queues.client.rpop("valetkey.bulk"), bytes):
            served.append(frame.decode().removesuffix(SERVED_MARK))
    assert served == frames


def test_large_frames_are_read_in_small_parts(queues: Queues) -> None:
    frames = [str(number) * 1_000_000 for number in range(9)] * 3
    queues.client.lpush("valetkey", *frames)
    queues.run_pass()
    assert (
        queue_lengths(queues.client)["valetkey"] == 27
    )  # the 4 that were read are within the limit


def step_clock(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the clock forward at each look at it."""
    times = itertools.count(step=seconds)
    clock = SimpleNamespace(monotonic=lambda: next(times))
    patch.setattr("worker.broker.fair_queue.time", clock)


@pytest.mark.parametrize("count", [40, 300])
@pytest.mark.parametrize("pause", [0.05, 0.5, 2.3])
def test_the_last_messages_leave_the_bulk_queue_too_if_nobody_takes_bulk(
    queues: Queues, monkeypatch: pytest.MonkeyPatch, pause: float, count: int
) -> None:
    step_clock(monkeypatch, pause)
    queues.put(numbered("flood", count))
    names: list[str] = []
    for _ in range(200):
        are_left = any(queue_lengths(queues.client).values())
        assert queues.run_pass() or not are_left
        names += queues.take("valetkey")
    assert sorted(names) == sorted(numbered("flood", count))


def test_the_last_messages_leave_the_bulk_queue_if_another_process_served_them(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_clock(monkeypatch, 0.5)
    queues.put(numbered("flood", 20))
    QueueSharing(queues.client).run_pass()
    lanes = QueueSharing(queues.client)
    lanes.load_lanes()
    while lanes.waiting:
        lanes.run_pass()
    assert queues.client.llen("valetkey.bulk")
    following = QueueSharing(queues.client)
    for _ in range(3):
        following.run_pass()
    assert queues.client.llen("valetkey.bulk") == 0
    assert queues.client.llen("valetkey") == 20


LIMIT = 100


def limited(queues: Queues, *tenants: str, messages: int = LIMIT, age: float = 600) -> list[int]:
    """Give the fair queue known tenants and a limit; return the counts of what it will drop."""
    dropped: list[int] = []
    limits = {tenant: LaneLimits(messages, age) for tenant in (*tenants, SERVICE_FIELD)}
    queues.sharing = QueueSharing(queues.client, lambda: limits, dropped.append)
    return dropped


def states(queues: Queues) -> dict[str, Any]:
    """Let the fair queue write the states of lanes, and return them."""
    queues.sharing.write_states()
    values: dict[Any, Any] = queues.client.hgetall(LANE_STATES)
    return {str(tenant, "ascii"): json.loads(value) for tenant, value in values.items()}


def test_what_clients_wrote_into_their_lanes_is_served(queues: Queues) -> None:
    limited(queues, "acme")
    queues.put(numbered("acme", 3), "valetkey.waiting:acme")
    queues.put(["!probe/0"], "valetkey.waiting:!probe")
    assert queues.run_pass()
    assert sorted(queues.serve_all()) == ["!probe/0", *numbered("acme", 3)]
    assert not queues.run_pass()


def test_a_lane_of_no_known_tenant_is_not_looked_for(queues: Queues) -> None:
    limited(queues, "acme")
    queues.put(numbered("forged", 3), "valetkey.waiting:forged")
    assert not queues.run_pass()


def test_made_up_names_share_one_turn_and_take_no_lane_from_a_tenant(queues: Queues) -> None:
    limited(queues, "calm", "late")
    queues.put([f"t{number}/0" for number in range(600)])
    queues.put(["calm/0"], "valetkey.waiting:calm")
    queues.put(numbered("late", INTERACTIVE_LIMIT + 1))
    queues.run_pass()
    assert queues.take("valetkey.bulk")[:2].count("calm/0") == 1
    assert set(waiting_lanes(queues.client)) <= {"?", "calm", "late"}


def test_all_lanes_of_very_many_tenants_are_found(queues: Queues) -> None:
    limited(queues, *(f"t{number}" for number in range(2_500)))
    queues.put(["t2499/0"], "valetkey.waiting:t2499")
    queues.put(["t0/0"], "valetkey.waiting:t0")
    for _ in range(4):
        queues.run_pass()
    served = queues.take("valetkey.bulk") + queues.take("valetkey")  # which one, if passes are slow
    assert sorted(served) == ["t0/0", "t2499/0"]


def test_a_lane_takes_ten_times_its_limit_and_the_rest_is_dropped_and_counted(
    queues: Queues,
) -> None:
    dropped = limited(queues, messages=10)
    queues.put([*numbered("flood", 150), *numbered("calm", 3)])
    queues.sharing._sort("valetkey", INTERACTIVE_LIMIT)
    assert queues.client.llen("valetkey.waiting:flood") == 100
    assert sum(dropped) == 50
    assert queues.take("valetkey") == numbered("calm", 3)


def test_the_state_of_a_lane_that_is_full_says_that_it_is_busy(queues: Queues) -> None:
    limited(queues, "acme", "calm")
    queues.put(numbered("acme", LIMIT), "valetkey.waiting:acme")
    queues.put(numbered("calm", 5), "valetkey.waiting:calm")
    queues.sharing.find_lanes()
    assert states(queues) == {
        "!": {"max_messages": LIMIT},
        "acme": {"max_messages": LIMIT, "lanes": {"acme": 60}},
    }
    assert 0 < queues.client.ttl(LANE_STATES) <= STATES_LIFETIME


def test_until_the_tenants_are_known_no_client_is_sent_into_a_lane(queues: Queues) -> None:
    assert states(queues) == {}


def test_a_message_that_says_to_be_old_makes_no_lane_busy_that_has_not_waited_so_long(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(queues, "acme", age=60)
    queues.client.lpush("valetkey.waiting:acme", '{"headers": {"sent_at": 1}}')
    queues.sharing.find_lanes()
    assert set(states(queues)) == {"!"}
    later = time.monotonic() + 61
    monkeypatch.setattr("worker.broker.fair_queue.time.monotonic", lambda: later)
    assert "lanes" in states(queues)["acme"]


def test_states_replace_whatever_stands_there(queues: Queues) -> None:
    limited(queues)
    queues.client.set(LANE_STATES, "junk")
    assert set(states(queues)) == {"!"}
    queues.client.hset(LANE_STATES, "acme", '{"lanes": 1e300}')
    assert set(states(queues)) == {"!"}


@pytest.mark.parametrize("key", ["valetkey.waiting:acme", "valetkey.waiting:acme.bulk"])
def test_a_lane_of_another_type_stops_no_other(queues: Queues, key: str) -> None:
    limited(queues, "acme", "calm")
    queues.client.set(key, "junk")
    queues.put(["calm/0"], "valetkey.waiting:calm")
    queues.run_pass()
    states(queues)
    assert queues.take("valetkey.bulk") == ["calm/0"]


def test_behind_a_flood_that_is_not_sorted_a_tenant_is_served_first_and_in_order(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(queues, "calm", messages=10**6)
    monkeypatch.setattr(queues.sharing._bulk_watch, "is_starved", lambda _: True)
    queues.put(numbered("flood", 1_500))
    queues.put(numbered("calm", 3), "valetkey.waiting:calm")
    served: list[str] = []
    for _ in range(3):
        queues.run_pass()
        served += [frame_name(f) for f in queues.client.rpop("valetkey", 4) or ()]
    assert [name for name in served if name.startswith("calm")] == numbered("calm", 3)
    flood = [name for name in served if name.startswith("flood")]
    assert flood == numbered("flood", len(flood))
    assert "calm/0" in served[:4]


def test_a_message_of_another_tenant_does_not_wait_behind_what_is_served_first(
    queues: Queues,
) -> None:
    limited(queues, messages=10**6)
    queues.put(numbered("flood", 400))
    queues.put(["calm/0"])
    queues.put(numbered("flood", 1_400))
    queues.run_pass()
    queues.take("valetkey.bulk")
    queues.run_pass()
    assert "calm/0" in queues.take("valetkey.bulk")
