"""A simulated next release, whose wire has grown, against today's client and worker."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.compatibility.flights import (
    Flight,
    finish_flight,
    flights_of_each_kind,
    new_flight,
    open_flight,
    request_again,
)
from tests.support.compatibility.next_release import next_release
from tests.support.compatibility.producers import Producer, running_producer, start_command
from tests.support.compatibility.releases import Release, current_release, kill_worker
from tests.support.compatibility.services import Servers, Service, new_service, tenant_of

# The first test waits for all operations, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(400)

Fields = dict[str, Any]
TIMEOUT = 30.0  # seconds
FLIGHTS = [
    f"{trust} {kind}"
    for trust in ("signed", "unsigned")
    for kind in ("download", "upload", "put", "multipart", "parts")
]
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
    """What producers were told by the workers and clients of the next and the current release."""

    operations: dict[str, Any]
    commands: dict[str, tuple[int, str]]
    upgraded: dict[str, tuple[Flight, list[Any]]]
    rolled_back: dict[str, tuple[Flight, list[Any]]]
    unknown: dict[str, tuple[Any, float]]


@pytest.fixture(scope="module")
def told(servers: Servers) -> Iterator[NextRelease]:
    """Run the current worker, then the next one, then the current one again."""
    current, later = current_release(servers.folder), next_release(servers.folder)
    service = new_service(servers, 0)
    service.prepare(current)
    with ExitStack() as stack:
        producer = stack.enter_context(running_producer(current, service.folder))
        with running_worker(service, current):
            before = opened_flights(service, producer)
        with running_worker(service, later):
            upgraded = finished(before, producer)
            before = opened_flights(service, producer)
            commands = run_commands(service, current)
            operations = run_operations(service, producer)
        with running_worker(service, current):
            rolled_back = finished(before, producer)
            newer = stack.enter_context(running_producer(later, service.folder))
            unknown = {name: send_unknown(service, newer, name) for name in UNKNOWN}
            yield NextRelease(operations, commands, upgraded, rolled_back, unknown)


@contextmanager
def running_worker(service: Service, release: Release) -> Iterator[None]:
    """Run a worker until the block ends, and kill it then."""
    with release.running_worker(service.settings, service.log_of(release)) as worker:
        yield
        kill_worker(worker)


def opened_flights(service: Service, producer: Producer) -> list[Flight]:
    flights = flights_of_each_kind(service, producer)
    for flight in flights:
        open_flight(flight, producer)
    return flights


def finished(flights: list[Flight], producer: Producer) -> dict[str, tuple[Flight, list[Any]]]:
    """Complete batches, and request them again; return both results by batch."""
    producer.call("release")
    for flight in flights:
        finish_flight(flight, producer)
    return {flight.name: (flight, request_again(flight, producer)) for flight in flights}


def run_operations(service: Service, producer: Producer) -> dict[str, Any]:
    """Perform the operations of the matrix for a tenant that gets grown replies."""
    tenant, clients = tenant_of("signed", "-next"), service.client("signed", "-next")
    prefixes = [f"{tenant}/operations", f"{tenant}/limited"]
    results: dict[str, Any] = producer.call(
        "operations",
        style="async",
        main=clients,
        limited=clients,
        prefixes=prefixes,
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


KINDS = ("download", "upload", "put", "multipart")
GROWN: Mapping[str, Callable[[Any], bool]] = {
    **{f"{kind}: granted": is_granted for kind in KINDS},
    "parts: granted": lambda result: all(map(is_granted, result["parts"])),
    **{f"{kind}: refused by policy": has_code("weather_bad") for kind in KINDS},
    "parts: refused by policy": lambda result: result[0]["code"] == "upload_unknown",
    "usage": has_new_metric,
    "cancel": lambda result: result["after"]["issued"] == 2,
    "reopened batch": is_reopened,
    "explain": is_explained,
    "manifest": lambda result: (result["issued"], result["refused"]) == (4, 1),
    "webhook": is_granted,
}


@pytest.mark.parametrize("operation", GROWN)
def test_a_client_reads_the_grown_replies_of_the_next_release(
    told: NextRelease, operation: str, record_claim: Callable[[str, str, str], None]
) -> None:
    record_claim("next release", operation, "current client, next worker")
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
    told: NextRelease, name: str, record_claim: Callable[[str, str, str], None]
) -> None:
    record_claim("next release", f"in flight: {name.split()[1]}", "current client, next worker")
    check_flight(*told.upgraded[name])


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_begun_by_the_next_release_continues_after_a_return_to_this_one(
    told: NextRelease, name: str, record_claim: Callable[[str, str, str], None]
) -> None:
    record_claim("next release", f"in flight: {name.split()[1]}", "after a return")
    check_flight(*told.rolled_back[name])


def check_flight(flight: Flight, again: list[Any]) -> None:
    """Check that all items of a batch are granted, and the same grants when it is sent again."""
    keys = [item["key"] for item in flight.request["items"]]
    results = [(result.get("key"), result.get("code")) for result in flight.results]
    assert results == [(key, None) for key in keys]
    assert again == flight.results


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_only_a_newer_client_knows_is_refused_by_name_and_at_once(
    told: NextRelease, name: str, record_claim: Callable[[str, str, str], None]
) -> None:
    record_claim("next release", f"unknown {name}", "next client, current worker")
    reply, seconds = told.unknown[name]
    assert (reply.get("code"), reply.get("field")) == UNKNOWN[name][3]
    assert seconds < TIMEOUT
