"""Frames from anyone who can write to the broker: no worker ends, no memory fills, nobody waits."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import Celery

from tests.attacks.conftest import IS_LONG, SEED, AttackTable
from tests.support.attacks.frames import HostileFrame, hostile_frames
from tests.support.builders.messages import grant_message
from tests.support.servers.waiting import wait_until
from worker.broker.dead_letters import read_dead_letters
from worker.broker.message_guard import MAX_FRAME_BYTES
from worker.broker.queues import queue_lengths, read_heartbeats
from worker.dev.stack import Stack

RANDOM_FRAMES = 5_000 if IS_LONG else 200
MAX_GROWTH = 300 * 1024**2  # bytes by which the worker's peak of memory may grow


class Attacked(NamedTuple):
    """The service after all hostile frames, and what they did."""

    frames: list[HostileFrame]
    pids_before: list[int]
    pids_after: list[int]
    peak_growth: int
    answer: dict[str, Any]
    results: dict[str, Any]
    dead_letters: int


def issuing_worker(stack: Stack) -> list[int]:
    with redis.Redis.from_url(stack.info.result_url) as store:
        return [each.pid for each in read_heartbeats(store) if each.worker.startswith("issue@")]


def peak_memory(pid: int) -> int:
    """Return the largest amount of memory that a process has used, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def ask(stack: Stack) -> dict[str, Any]:
    with Celery(broker=stack.info.broker_url, backend=stack.info.result_url) as producer:
        task = producer.send_task("valetkey.issue", args=[grant_message()], queue="valetkey")
        answer: dict[str, Any] = task.get(timeout=60)
        return answer


@pytest.fixture(scope="module")
def attacked(stack: Stack) -> Attacked:
    frames = list(hostile_frames(SEED, RANDOM_FRAMES))
    ask(stack)
    before = issuing_worker(stack)
    memory = sum(map(peak_memory, before))
    with (
        redis.Redis.from_url(stack.info.broker_url) as broker,
        redis.Redis.from_url(stack.info.result_url) as store,
    ):
        for frame in frames:
            broker.lpush("valetkey", frame.data)
        broker.publish("/0.celery.pidbox", "null")
        wait_until(
            lambda: not any(queue_lengths(broker).values()), seconds=60, what="the queues are empty"
        )
        answer = ask(stack)
        stored = store.mget([f"celery-task-meta-{frame.task_id}" for frame in frames])
        results = {
            frame.task_id: json.loads(value)
            for frame, value in zip(frames, stored, strict=True)
            if value
        }
        after = issuing_worker(stack)
        growth = sum(map(peak_memory, after)) - memory
        return Attacked(
            frames, before, after, growth, answer, results, len(read_dead_letters(broker))
        )


@pytest.mark.timeout(300)
def test_no_frame_ends_a_worker(attacked: Attacked, attack_table: AttackTable) -> None:
    is_same = attacked.pids_before == attacked.pids_after
    attack_table.add("frames and headers", len(attacked.frames), 0 if is_same else 1)
    assert len(attacked.frames) >= 250
    assert is_same


def test_a_producer_is_answered_after_all_of_them(attacked: Attacked) -> None:
    assert attacked.answer["status"] == "issued"


def test_no_frame_gets_past_the_check_and_causes_an_error(attacked: Attacked) -> None:
    assert attacked.dead_letters == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads memory from Linux's /proc")
def test_no_frame_takes_much_memory(attacked: Attacked) -> None:
    assert attacked.peak_growth < MAX_GROWTH


def test_every_frame_with_a_readable_id_is_answered(attacked: Attacked) -> None:
    silent = [
        frame.name
        for frame in attacked.frames
        if frame.task_id not in attacked.results and has_readable_id(frame)
    ]
    assert silent == []


def test_a_refused_frame_is_refused_as_an_invalid_message(attacked: Attacked) -> None:
    codes = {
        result["result"]["refusal"]["code"]
        for result in attacked.results.values()
        if result["status"] == "SUCCESS" and result["result"]["status"] == "refused"
    }
    assert "message_invalid" in codes


def has_readable_id(frame: HostileFrame) -> bool:
    if len(frame.data) > MAX_FRAME_BYTES:
        return False  # it is not decoded
    try:
        headers = json.loads(frame.data)["headers"]
        ignores_result = headers.get("ignore_result") is True
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return False
    return headers.get("id") == frame.task_id and not ignores_result
