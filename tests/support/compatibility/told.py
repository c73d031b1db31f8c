"""What the current and the next release tell the producers of one service, one after the other."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from tests.support.builders.messages import grant_message
from tests.support.compatibility.flights import (
    KINDS,
    Flight,
    new_flight,
    open_flights,
    request_again,
)
from tests.support.compatibility.next_release import next_release
from tests.support.compatibility.releases import CHECKOUT, Producer, Release
from tests.support.compatibility.services import (
    TRUSTS,
    Service,
    tenant_of,
)
from worker.base.database_engine import create_database_engine

Fields = dict[str, Any]
Flights = dict[str, tuple[Flight, list[Any]]]
TIMEOUT = 30.0  # seconds
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


@contextmanager
def told_by_both_releases(service: Service) -> Iterator[NextRelease]:
    """Run the current worker, then the next one, the current one again, and then both."""
    current, later = Release("current", CHECKOUT), next_release(service.folder)
    service.prepare(current)
    engine = create_database_engine(service.settings["VALETKEY_DATABASE_URL"])
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        producer = stack.enter_context(current.running_producer(service.folder))
        with service.running_worker(current):
            before = open_flights(service, producer)
        with service.running_worker(later):
            upgraded = finished(before, producer)
            before = open_flights(service, producer)
            commands = run_commands(service, current)
            prefix = f"{tenant_of('signed', '-next')}/operations"
            operations = producer.call(
                "operations", service.client("signed", "-next"), prefix=prefix
            )
        with service.running_worker(current):
            rolled_back = finished(before, producer)
            newer = stack.enter_context(later.running_producer(service.folder))
            unknown = {name: send_unknown(service, newer, name) for name in UNKNOWN}
            with service.running_worker(later, "--only", "issue"):
                logs = service.log_of(current), service.log_of(later)
                shared = {kind: share_batch(service, newer, kind, logs) for kind in KINDS}
            usage = {trust: newer.call("usage", service.client(trust)) for trust in TRUSTS}
        yield NextRelease(
            releases=(current, later),
            engine=engine,
            operations=operations,
            commands=commands,
            upgraded=upgraded,
            rolled_back=rolled_back,
            unknown=unknown,
            shared=shared,
            usage=usage,
        )


def finished(flights: list[Flight], producer: Producer) -> Flights:
    """Complete batches, and request them again; return both results by batch."""
    for flight in flights:
        flight.rest.extend(request_again(flight, producer)[len(flight.first) :])
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
        name: release.start_command(service.folder, environ, *words, *timeout)
        for name, words in COMMANDS.items()
    }
    printed = {name: "".join(process.communicate()) for name, process in started.items()}
    return {name: (process.returncode, printed[name]) for name, process in started.items()}


def send_unknown(service: Service, producer: Producer, name: str) -> tuple[Any, float]:
    """Let a newer client send what the service does not know; return the reply and the seconds."""
    header, terms, item, _ = UNKNOWN[name]
    tenant = tenant_of("signed")
    body = grant_message([f"{tenant}/a"], tenant=tenant, **header)
    body |= {"grant": body["grant"] | terms, "items": [body["items"][0] | item]}
    began = time.monotonic()
    reply = producer.call("ask", service.client("signed"), body=body)
    return reply, time.monotonic() - began
