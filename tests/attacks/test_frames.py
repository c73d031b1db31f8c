"""Frames from anyone who can write to the broker: no worker ends, no memory fills, nobody waits."""

import bz2
import gzip
import json
import pickle
import random
import zlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import Celery

from tests.attacks.conftest import IS_LONG, SEED, AttackTable
from tests.support.builders.frames import build_frame, call_text, celery_headers
from tests.support.builders.messages import grant_message
from tests.support.servers.waiting import wait_until
from valetkey.wire.strict_json import parse_json
from worker.broker.message_guard import MAX_FRAME_BYTES
from worker.dev.stack import Stack
from worker.doctor.dead_letter_list import read_dead_letters
from worker.shared.worker_states import queue_lengths, read_heartbeats

_HUGE = 10**400
_VALUES: list[Any] = [
    None, True, -1, 0, 7, 2**63, 8 * 10**9, 1.5, float("inf"), float("nan"),
    "", " ", "soon", "\x00", "\ud800", "é" * 300, "a" * 5_000, "2026-11-26T12:00:00+99:99",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "../../etc/passwd",
    [], [[]], ["a"], [7], [_HUGE, None], {}, {"a": 1}, {"__class__": "os.system"}, [None] * 10_000,
]  # fmt: skip
_NAMES = (
    *celery_headers(),
    *("compression", "callbacks", "errbacks", "chord", "chain", "redelivered", "method", "clock"),
    *("x-death", "delivery_info", "hostname", "args", "kwargs", "reply_to", "__proto__", "taskset"),
)


class HostileFrame(NamedTuple):
    """A frame, as the bytes that are put into the queue, and the id of its task, if it has one."""

    name: str
    data: bytes
    task_id: str


def hostile_frames(seed: int, random_count: int) -> Iterator[HostileFrame]:
    """Yield the hand-made frames, then every header with odd values, then random mutations."""
    for number, (name, make) in enumerate(_hand_made()):
        task_id = f"hostile-{number}"
        yield HostileFrame(name, _bytes(make, task_id), task_id)
    randomness = random.Random(seed)
    for number, header in enumerate(_NAMES * 3):
        task_id, value = f"hostile-header-{number}", randomness.choice(_VALUES)
        headers = celery_headers(**{"id": task_id, header: value})
        yield HostileFrame(f"header {header}", _bytes(build_frame(headers=headers), ""), task_id)
    for number in range(random_count):
        task_id = f"hostile-random-{number}"
        frame = build_frame(headers=celery_headers(id=task_id))
        yield HostileFrame("random", _mutate(frame, randomness), task_id)


def _bytes(frame: Any, task_id: str) -> bytes:
    if isinstance(frame, bytes):
        return frame
    if task_id and isinstance(frame.get("headers"), dict) and "id" in frame["headers"]:
        frame["headers"]["id"] = task_id
    return json.dumps(frame).encode()


def _mutate(frame: dict[str, Any], randomness: random.Random) -> bytes:
    for _ in range(randomness.randint(1, 3)):
        part = randomness.choice([frame, frame.get("headers"), frame.get("properties")])
        if not isinstance(part, dict) or not part:
            continue
        name = randomness.choice(sorted(part))
        if randomness.random() < 0.3:
            del part[name]
        else:
            part[name] = randomness.choice(_VALUES)
    data = bytearray(json.dumps(frame).encode())
    if randomness.random() < 0.3:
        for _ in range(randomness.randint(1, 5)):
            data[randomness.randrange(len(data))] = randomness.randrange(256)
    if randomness.random() < 0.1:
        del data[randomness.randrange(len(data)) :]
    return bytes(data)


def _hand_made() -> Iterator[tuple[str, Any]]:
    yield from _not_json()
    yield from _bodies()
    yield from _bombs()
    values: Any
    for name, values in {
        "eta": ["", "soon", 7, "9999-12-31T23:59:59Z"],
        "expires": ["", "never", {}],
        "stamped_headers": [7, ["a"]],
        "timelimit": ["soon", [_HUGE, None], [-1, -1], [float("nan"), 1]],
        "retries": [8 * 10**9, -1, _HUGE],
        "task": ["os.system", "celery.backend_cleanup", "celery.map", "celery.chord_unlock"],
        "compression": ["bzip2", "zlib", "gzip", "nonsense"],
    }.items():
        for value in values:
            yield f"{name}={value!r:.20}", build_frame(headers=celery_headers(**{name: value}))
    for name, values in {
        "delivery_tag": [None, 7, [], {}, "a" * 10_000],
        "delivery_info": [None, 7, "a", [], {"exchange": 7}, {"routing_key": ["a"]}],
        "priority": ["high", -1, 300, _HUGE, []],
        "body_encoding": ["rot13", 7, [], {}],
        "reply_to": [7, [], "valetkey.bulk"],
        "correlation_id": [7, {}],
        "consumer_tag": [7, []],
    }.items():
        for value in values:
            yield f"{name}={value!r:.20}", build_frame(properties={name: value})
    for name in ("body", "content_type", "content_encoding", "headers", "properties"):
        for value in (None, 7, [], ["a"], {}, "", "\ud800"):
            frame = build_frame() | {name.replace("_", "-"): value}
            yield f"{name}={value!r}", frame
            frame = build_frame()
            frame.pop(name.replace("_", "-"))
            yield f"no {name}", frame


def _not_json() -> Iterator[tuple[str, bytes]]:
    for data in (b"", b"null", b"7", b"[]", b'""', b"{", b"\xff\xfe", b"NaN", b"\x00" * 100, b"{}"):
        yield f"the bytes {data[:8]!r}", data
    yield "deep list", b"[" * 200_000
    yield "deep object", b'{"a":' * 200_000
    yield "a number of 100,000 digits", b'{"headers":' + b"1" * 100_000 + b"}"
    yield "pickle", pickle.dumps(print)


def _bodies() -> Iterator[tuple[str, Any]]:
    nested: Any = 1
    for _ in range(500):
        nested = [nested]
    yield "500 nested lists", build_frame(call_text(nested))
    yield "500 nested lists as args", build_frame(json.dumps([nested, {}, None]))
    yield "500 nested objects", build_frame("[[" + '{"a":' * 500 + "1" + "}" * 500 + "], {}, null]")
    yield "100,000 nested lists", build_frame("[" * 100_000)
    for text in ("null", "7", "{}", "[]", "[1, 2, 3]", "[[], [], []]", '{"args": 7}', "- yaml", ""):
        yield f"the body {text!r}", build_frame(text)
    for option in ("callbacks", "errbacks", "chain", "chord"):
        follow_up = [{"task": "other", "args": [], "options": {"queue": "stolen"}}]
        yield (
            f"a {option} that steals",
            build_frame(call_text(grant_message(), **{option: follow_up})),
        )
    yield "invalid base64", build_frame(body="a")
    yield "base64 of no text", build_frame(body=b64encode(b"\xff\xfe").decode())


def _bombs() -> Iterator[tuple[str, Any]]:
    zeros = b"[" * 20_000_000
    for name, data in (
        ("bzip2", bz2.compress(zeros)),
        ("gzip", gzip.compress(zeros)),
        ("zlib", zlib.compress(zeros)),
    ):
        headers = celery_headers(compression=name)
        yield f"a {name} bomb", build_frame(headers=headers, body=b64encode(data).decode())
    yield "a million lists", build_frame(json.dumps([[[[]] * 1_000_000], {}, None]))
    yield "nine megabytes", build_frame(call_text("a" * 9 * 1024**2))


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
        headers = parse_json(frame.data)["headers"]
        ignores_result = headers.get("ignore_result") is True
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return headers.get("id") == frame.task_id and not ignores_result
