import itertools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from tests.integration.broker.sharing.conftest import frame_name, numbered, put, take
from worker.broker.fair_queue import BULK_LIMIT, INTERACTIVE_LIMIT, SERVED_MARK, QueueSharing
from worker.broker.queues import queue_lengths, waiting_lanes


def serve_all(
    client: redis.Redis, sharing: QueueSharing, queue: str = "valetkey.bulk"
) -> list[str]:
    """Run passes, and take what they serve, until no message is left."""
    names: list[str] = []
    while sum(queue_lengths(client).values()):
        sharing.run_pass()
        names += take(client, queue)
    return names


def act_before_move(
    sharing: QueueSharing, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]
) -> None:
    """Let others act once, after a pass has read a queue and before it moves frames."""
    move = sharing._move_frames

    def act_then_move(queue: str, moves: list[tuple[int, str, bytes]]) -> None:
        act()
        monkeypatch.undo()
        move(queue, moves)

    monkeypatch.setattr(sharing, "_move_frames", act_then_move)


def test_queues_within_the_limits_are_left_alone(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    put(client, numbered("acme", INTERACTIVE_LIMIT))
    put(client, numbered("acme", BULK_LIMIT), "valetkey.bulk")
    before = client.lrange("valetkey", 0, -1), client.lrange("valetkey.bulk", 0, -1)
    assert not sharing.run_pass().is_waiting
    assert (client.lrange("valetkey", 0, -1), client.lrange("valetkey.bulk", 0, -1)) == before
    assert sorted(client.keys()) == [b"valetkey", b"valetkey.bulk"]


def test_a_tenant_over_the_limit_leaves_the_queue_to_the_others(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    put(client, [*numbered("flood", 300), *numbered("calm", 10)])
    assert sharing.run_pass().is_waiting
    assert take(client, "valetkey") == numbered("calm", 10)
    assert waiting_lanes(client) == ["flood"]


def test_every_message_of_a_tenant_is_served_in_order_and_nothing_is_left(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    put(client, numbered("flood", 1_200))
    assert serve_all(client, sharing) == numbered("flood", 1_200)
    assert not sharing.run_pass().is_waiting
    assert client.keys() == []


def test_later_messages_of_a_waiting_tenant_wait_behind_its_earlier_ones(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    put(client, numbered("flood", 100))
    sharing.run_pass()
    put(client, ["flood/last"])
    assert serve_all(client, sharing) == [*numbered("flood", 100), "flood/last"]


def test_small_requests_of_a_tenant_do_not_wait_behind_its_own_bulk(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    put(client, numbered("flood", 50))
    put(client, numbered("acme", 50), "valetkey.bulk")
    sharing.run_pass()
    assert "acme.bulk" in waiting_lanes(client)
    put(client, ["acme/now"])
    sharing.run_pass()
    assert take(client, "valetkey") == ["acme/now"]


def test_a_served_message_is_the_same_json_and_is_not_moved_again(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    put(client, numbered("flood", 20))
    original = client.lindex("valetkey", -1)
    sharing.run_pass()
    for _ in range(5):
        sharing.run_pass()
    served = client.lindex("valetkey.bulk", -1)
    assert isinstance(original, bytes)
    assert served == original + SERVED_MARK.encode()
    assert json.loads(served) == json.loads(original)


def test_another_process_continues_where_one_was_killed(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    put(client, numbered("flood", 100))
    sharing.run_pass()
    successor = QueueSharing(client)
    successor.load_lanes()
    assert serve_all(client, successor) == numbered("flood", 100)


def test_messages_that_workers_took_meanwhile_are_not_moved(
    client: redis.Redis, sharing: QueueSharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, numbered("flood", 100))
    frames: list[Any] = []
    act_before_move(sharing, monkeypatch, lambda: frames.extend(client.rpop("valetkey", 30) or ()))
    sharing.run_pass()
    taken = [frame_name(frame) for frame in frames]
    assert taken + serve_all(client, sharing) == numbered("flood", 100)


def test_a_message_of_another_tenant_is_not_moved_instead_of_one_that_was_taken(
    client: redis.Redis, sharing: QueueSharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for n in range(10) for name in (f"flood/{n}a", f"flood/{n}b", f"calm/{n}")]
    put(client, names)
    act_before_move(sharing, monkeypatch, lambda: client.rpop("valetkey", 4))
    sharing.run_pass()
    assert take(client, "valetkey") == [f"calm/{n}" for n in range(1, 10)]


def test_a_message_that_returned_meanwhile_is_not_lost(
    client: redis.Redis, sharing: QueueSharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, numbered("flood", 100))
    returned = client.lpop("valetkey")
    assert isinstance(returned, bytes)
    act_before_move(sharing, monkeypatch, lambda: client.rpush("valetkey", returned))
    assert sorted(serve_all(client, sharing)) == sorted(numbered("flood", 100))


@pytest.mark.parametrize("key", ["valetkey.waiting:flood", "valetkey.waiting"])
def test_a_key_of_another_type_loses_nothing(
    client: redis.Redis, sharing: QueueSharing, key: str
) -> None:
    put(client, [*numbered("flood", 50), *numbered("other", 50)])
    client.set(key, "something else")
    sharing.run_pass()
    sharing.run_pass()
    client.delete(key)
    names = [name for name in queue_lengths(client) if name != "valetkey.bulk"]
    lanes = {"valetkey.waiting:flood", "valetkey.waiting:other", *names}
    remaining = [name for lane in sorted(lanes) for name in take(client, lane)]
    remaining += take(client, "valetkey.bulk")
    assert sorted(remaining) == sorted(numbered("flood", 50) + numbered("other", 50))


def test_a_frame_that_is_no_message_waits_like_others(
    client: redis.Redis, sharing: QueueSharing
) -> None:
    frames = [*[f"garbage {number}" for number in range(50)], "[" * 100_000, "\x00" * 9]
    client.lpush("valetkey", *frames)
    sharing.run_pass()
    assert waiting_lanes(client) == ["?"]
    served: list[str] = []
    while len(served) < len(frames):
        sharing.run_pass()
        while isinstance(frame := client.rpop("valetkey.bulk"), bytes):
            served.append(frame.decode().removesuffix(SERVED_MARK))
    assert served == frames


def test_large_frames_are_read_in_small_parts(client: redis.Redis, sharing: QueueSharing) -> None:
    frames = [str(number) * 1_000_000 for number in range(9)] * 3
    client.lpush("valetkey", *frames)
    sharing.run_pass()
    lengths = queue_lengths(client)
    assert lengths["valetkey"] == 27  # the 4 that were read are within the limit


@pytest.mark.parametrize("count", [40, 300])
@pytest.mark.parametrize("pause", [0.05, 0.5, 2.3])
def test_the_last_messages_leave_the_bulk_queue_too_if_nobody_takes_bulk(
    client: redis.Redis,
    sharing: QueueSharing,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
    count: int,
) -> None:
    seconds = itertools.count(step=pause)
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("worker.broker.fair_queue.time", clock)
    put(client, numbered("flood", count))
    names: list[str] = []
    for _ in range(200):
        are_left = any(queue_lengths(client).values())
        assert sharing.run_pass().is_waiting or not are_left
        names += take(client, "valetkey")
    assert sorted(names) == sorted(numbered("flood", count))


def test_the_last_messages_leave_the_bulk_queue_if_another_process_served_them(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=0.5)
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("worker.broker.fair_queue.time", clock)
    put(client, numbered("flood", 20))
    QueueSharing(client).run_pass()
    lanes = QueueSharing(client)
    lanes.load_lanes()
    while lanes.waiting:
        lanes.run_pass()
    assert client.llen("valetkey.bulk")
    following = QueueSharing(client)
    for _ in range(3):
        following.run_pass()
    assert client.llen("valetkey.bulk") == 0
    assert client.llen("valetkey") == 20
