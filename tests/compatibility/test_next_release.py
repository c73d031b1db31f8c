"""A simulated next release, whose wire has grown, against today's client and worker."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.compatibility.flights import (
    CHUNK_SIZE,
    ITEMS,
    AuditCounts,
    Flight,
    audit_counts,
    charged_and_granted,
    finish_flight,
    new_flight,
    open_flights,
    request_again,
)
from tests.support.compatibility.next_release import next_release
from tests.support.compatibility.producers import Producer, running_producer, start_command
from tests.support.compatibility.releases import Release, current_release, kill_worker
from tests.support.compatibility.services import (
    TRUSTS,
    Servers,
    Service,
    new_service,
    tenant_of,
)
from worker.db.engine import create_database_engine

# The first test waits for all operations, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(400)

Fields = dict[str, Any]
Flights = dict[str, tuple[Flight, list[Any]]]
TIMEOUT = 30.0  # seconds
KINDS = ("download", "upload", "put", "multipart")
FLIGHTS = [f"{trust} {kind}" for trust in TRUSTS for kind in (*KINDS, "parts")]
MAX_SHARED_BATCHES = 20
UNKNOWN: Mapping[str, tuple[Fields, Fields, Fields, tuple[str, str]]] = {
    "header": ({"urgency": "high"}, {}, {}, ("unknown_field", "urgency")),
    "term": ({}, {"priority": 5}, {}, ("unknown_field", "grant.priority")),
    "item": ({}, {}, {"note": "first"}, ("unknown_field", "items[0].note")),
    "kind": ({}, {"kind": "archive"}, {}, ("kind_not_allowed", "grant")),
    "ask": ({"ask": "forecast"}, {}, {}, ("malformed", "ask")),
    "version": ({"v": 2}, {}, {}, ("version_unknown", "v")),
}


@dataclass
class NextRelease:
    """What producers were told by the workers and clients of the next and the current release.

    upgraded and rolled_back are batches across a change of the worker, with the results of sending
    them again; shared are batches by kind that workers of both releases answered.
    """

    releases: tuple[Release, Release]
    engine: Engine
    operations: dict[str, Any]
    commands: dict[str, tuple[int, str]]
    upgraded: Flights
    rolled_back: Flights
    unknown: dict[str, tuple[Any, float]]
    shared: dict[str, Flight]
    usage: dict[str, Any]


@pytest.fixture(scope="module")
def told(servers: Servers) -> Iterator[NextRelease]:
    """Run the current worker, then the next one, the current one again, and then both."""
    current, later = current_release(servers.folder), next_release(servers.folder)
    service = new_service(servers)
    service.prepare(current)
    engine = create_database_engine(service.database_url)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        producer = stack.enter_context(running_producer(current, service.folder))
        with running_worker(service, current):
            before = open_flights(service, producer)
        with running_worker(service, later):
            upgraded = finished(before, producer)
            before = open_flights(service, producer)
            commands = run_commands(service, current)
            operations = run_operations(service, producer)
        with running_worker(service, current):
            rolled_back = finished(before, producer)
            newer = stack.enter_context(running_producer(later, service.folder))
            unknown = {name: send_unknown(service, newer, name) for name in UNKNOWN}
            with running_worker(service, later, "--only", "issue"):
                logs = service.log_of(current), service.log_of(later)
                shared = {kind: share_batch(service, newer, kind, logs) for kind in KINDS}
            usage = {trust: newer.call("usage", client=service.client(trust)) for trust in TRUSTS}
        yield NextRelease(
            *((current, later), engine, operations, commands),
            *(upgraded, rolled_back, unknown, shared, usage),
        )


@contextmanager
def running_worker(service: Service, release: Release, *options: str) -> Iterator[None]:
    """Run a worker until the block ends, and kill it then."""
    log = service.log_of(release)
    with release.running_worker(service.settings, log, *options) as worker:
        yield
        kill_worker(worker)


def finished(flights: list[Flight], producer: Producer) -> Flights:
    """Complete batches, and request them again; return both results by batch."""
    producer.call("release")
    for flight in flights:
        finish_flight(flight, producer)
    return {flight.name: (flight, request_again(flight, producer)) for flight in flights}


def share_batch(service: Service, producer: Producer, kind: str, logs: tuple[Path, Path]) -> Flight:
    """Request batches until one has chunks from each of two workers, by their logs."""
    for _ in range(MAX_SHARED_BATCHES):
        flight = new_flight(service, kind, "signed", items=12, chunk_size=1)
        flight.rest.extend(request_again(flight, producer))
        if all(answered_chunks(log, flight.id) for log in logs):
            return flight
    raise AssertionError(f"one worker answered each of {MAX_SHARED_BATCHES} batches alone")


def answered_chunks(log: Path, batch_id: str) -> int:
    """Return the number of chunks of a batch that a worker answered."""
    lines = log.read_text(errors="replace").splitlines()
    records = [json.loads(line) for line in lines if f'"{batch_id}"' in line]
    return sum(record.get("event") == "answered" for record in records)


def run_operations(service: Service, producer: Producer) -> dict[str, Any]:
    """Perform all operations for a tenant that gets grown replies."""
    results: dict[str, Any] = producer.call(
        "operations",
        client=service.client("signed", "-next"),
        prefix=f"{tenant_of('signed', '-next')}/operations",
        timeout=TIMEOUT,
    )
    return results


COMMANDS = {
    "granted": ("download", "demo", "acme-next/command", "--json"),
    "refused": ("download", "demo", "elsewhere", "--json"),
    "usage": ("usage",),
}


def run_commands(service: Service, release: Release) -> dict[str, tuple[int, str]]:
    """Run commands of a release for a tenant that gets grown replies, all at the same time."""
    environ = service.command_environ("signed", "-next")
    timeout = ("--timeout", f"{TIMEOUT:g}s")
    started = {
        name: start_command(release, service.folder, environ, *words, *timeout)
        for name, words in COMMANDS.items()
    }
    printed = {name: "".join(process.communicate()) for name, process in started.items()}
    return {name: (process.returncode, printed[name]) for name, process in started.items()}


def send_unknown(service: Service, producer: Producer, name: str) -> tuple[Any, float]:
    """Let a newer client send what the service does not know; return the reply and the seconds."""
    header, terms, item, _ = UNKNOWN[name]
    flight = new_flight(service, "download", "signed")
    request = flight.request
    body = {
        "v": 1,
        "tenant": tenant_of("signed"),
        "batch": request["batch_id"],
        "requested_by": "compatibility",
        "grant": {"kind": "download", "bucket": "demo", "expires_in": 600} | terms,
        "total": 1,
        "items": [request["items"][0] | item],
    } | header
    began = time.monotonic()
    reply = producer.call("ask", client=flight.client, body=body, timeout=30)
    return reply, time.monotonic() - began


def has_code(code: str) -> Callable[[Any], bool]:
    return lambda result: result["code"] == code


def is_granted(result: Any) -> bool:
    return bool(result["limited_by"] == "session" and result["url"])


def has_new_metric(result: Any) -> bool:
    return [(quota["metric"], quota["window"]) for quota in result][-1] == ("copies", "week")


def is_reopened(result: Any) -> bool:
    codes = [item.get("code") for item in result["again"]]
    return result["again"] == result["first"] and codes == [None] * 4 + ["weather_bad"]


def is_explained(result: Any) -> bool:
    refusals = [rule["refusal"]["code"] for rule in result["refused"]["rules"] if rule["refusal"]]
    return bool(result["granted"]["decision"] == "issue" and refusals == ["weather_bad"])


GROWN: Mapping[str, Callable[[Any], bool]] = {
    **{f"{kind}: granted": is_granted for kind in KINDS},
    "parts: granted": lambda result: all(map(is_granted, result["parts"])),
    **{f"{kind}: refused": has_code("weather_bad") for kind in KINDS},
    "parts: refused": lambda result: result[0]["code"] == "upload_unknown",
    "usage": has_new_metric,
    "service": lambda result: "parts" in result["kinds"],
    "cancel": lambda result: result["issued"] == 2,
    "reopened batch": is_reopened,
    "explain": is_explained,
    "manifest": lambda result: (result["issued"], result["refused"]) == (4, 1),
    "webhook": is_granted,
}


@pytest.mark.parametrize("operation", GROWN)
def test_a_client_reads_the_grown_replies_of_the_next_release(
    told: NextRelease, operation: str
) -> None:
    assert GROWN[operation](told.operations[operation])


@pytest.mark.parametrize(
    ("command", "exit_code", "text"),
    [("granted", 0, "session"), ("refused", 1, "weather_bad"), ("usage", 0, "copies")],
)
def test_a_command_prints_the_grown_replies_of_the_next_release(
    told: NextRelease, command: str, exit_code: int, text: str
) -> None:
    code, printed = told.commands[command]
    assert (code, text in printed) == (exit_code, True)


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_in_flight_continues_after_an_upgrade_to_the_next_release(
    told: NextRelease, name: str
) -> None:
    check_flight(told.engine, *told.upgraded[name])


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_begun_by_the_next_release_continues_after_a_return_to_this_one(
    told: NextRelease, name: str
) -> None:
    check_flight(told.engine, *told.rolled_back[name])


def check_flight(engine: Engine, flight: Flight, again: list[Any]) -> None:
    """Check that each item of a batch is granted and audited once, also if it is sent again."""
    keys = [item["key"] for item in flight.request["items"]]
    results = [(result.get("key"), result.get("code")) for result in flight.results]
    assert results == [(key, None) for key in keys]
    assert again == flight.results
    assert audit_counts(engine, flight.id) == AuditCounts(ITEMS // CHUNK_SIZE, ITEMS, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_of_both_releases_share_a_batch(told: NextRelease, kind: str) -> None:
    flight = told.shared[kind]
    assert [result.get("code") for result in flight.results] == [None] * 12
    assert audit_counts(told.engine, flight.id) == AuditCounts(12, 12, 0)


@pytest.mark.parametrize("trust", TRUSTS)
def test_items_are_charged_once_by_workers_of_both_releases(told: NextRelease, trust: str) -> None:
    charged, granted = charged_and_granted(told.engine, tenant_of(trust))
    used = {quota["metric"]: quota["used"] for quota in told.usage[trust]}
    assert (charged, used["grants"]) == (granted, granted)
    assert granted > 0


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_only_a_newer_client_knows_is_refused_by_name_and_at_once(
    told: NextRelease, name: str
) -> None:
    reply, seconds = told.unknown[name]
    assert (reply.get("code"), reply.get("field")) == UNKNOWN[name][3]
    assert seconds < TIMEOUT


def test_every_process_ran_the_code_of_its_release(told: NextRelease) -> None:
    for release in told.releases:
        imports = release.imports()
        assert all(each.origin.startswith(f"{release.folder}/") for each in imports)
        packages = {each.package for each in imports}
        assert packages == {"valetkey", "worker", "models", "celeryconfig"}
