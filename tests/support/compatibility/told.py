"""What two releases tell the producers of one service, one after the other."""

import ast
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select

from models import Batch, Chunk, Grant, Usage
from tests.support.builders.messages import grant_message
from tests.support.compatibility.releases import (
    CHECKOUT,
    PACKAGES,
    TRUSTS,
    Producer,
    Release,
    Service,
    tenant_of,
)
from tests.support.servers.programs import Completed
from valetkey.session import new_id
from worker.base.database_engine import create_database_engine

_FIELDS = (
    ("valetkey/wire/messages.py", "BatchHeader", "urgency: str | None = None"),
    ("valetkey/wire/messages.py", "Item", "note: str | None = None"),
    ("valetkey/wire/terms.py", "Terms", "priority: int = 0"),
    ("valetkey/wire/refusals.py", "Code", 'WEATHER_BAD = "weather_bad"'),
)
_DISPATCH = """

from worker.next_reply import extend_reply

_seal_plainly = _seal


def _seal(reply, sender, message):
    if sender.tenant.name.endswith("-next"):
        reply = reply._replace(values=extend_reply(reply.values))
    return _seal_plainly(reply, sender, message)
"""


def next_release(folder: Path) -> Release:
    """Copy the checkout into a folder, and let its wire grow.

    Messages have new optional fields. The replies to tenants whose names end in -next have unknown
    fields, a new code, a new metric and a new source of expiry.
    """
    tree = folder / "next"
    for name in PACKAGES[:-1]:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, tree / name, ignore=ignored)
    shutil.copy(CHECKOUT / "celeryconfig.py", tree)
    shutil.copy(Path(__file__).parent / "next_reply.py", tree / "worker")
    for module, class_name, line in _FIELDS:
        _add_to_class(tree / module, class_name, line)
    with (tree / "worker" / "issue" / "dispatch.py").open("a") as dispatch:
        dispatch.write(_DISPATCH)
    return Release("next", tree)


def _add_to_class(path: Path, class_name: str, line: str) -> None:
    """Insert a line after the last field of a class."""
    source = path.read_text(encoding="utf-8")
    (found,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign | ast.Assign)]
    lines = source.splitlines()
    lines.insert(fields[-1].end_lineno or 0, f"    {line}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


PART = 5 * 1024**2  # bytes
ITEMS, CHUNK_SIZE = 6, 2
KINDS = ("download", "upload", "put", "multipart")
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "download": {"filename": "statement.pdf"},
    "upload": {"max_size": 1_000, "content_type": "text/plain", "metadata": {"a": "b"}},
    "put": {"max_size": 1_000},
    "multipart": {"max_size": ITEMS * PART, "part_size": PART},
}
_SIZES = {"put": 9, "multipart": ITEMS * PART}


@dataclass(frozen=True)
class Flight:
    """A batch: its request, the results of its first chunk, and then those of the others."""

    name: str
    request: dict[str, Any]
    client: dict[str, Any]
    first: list[Any] = field(default_factory=list)
    rest: list[Any] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.request["batch_id"])

    @property
    def results(self) -> list[Any]:
        return self.first + self.rest


def new_flight(
    service: Service, kind: str, trust: str, items: int = ITEMS, chunk_size: int = CHUNK_SIZE
) -> Flight:
    """Return a batch that is not requested yet, of any kind but parts."""
    batch_id = new_id()
    keys = [f"{tenant_of(trust)}/{batch_id}/{number}" for number in range(items)]
    size = {"size": _SIZES[kind]} if kind in _SIZES else {}
    request = {
        "kind": kind,
        "bucket": "demo",
        "items": [{"key": key} | size for key in keys],
        "options": _OPTIONS[kind],
        "chunk_size": chunk_size,
        "batch_id": batch_id,
    }
    return Flight(f"{trust} {kind}", request, service.client(trust))


def _parts_flight(service: Service, trust: str, producer: Producer) -> Flight:
    """Return a batch of all parts of a multipart upload, which a producer requests first."""
    upload = new_flight(service, "multipart", trust, items=1)
    (grant,) = request_again(upload, producer)
    request = upload.request | {
        "kind": "parts",
        "items": [{"key": grant["key"], "part": number + 1} for number in range(ITEMS)],
        "options": {"of": grant["id"]},
        "batch_id": new_id(),
    }
    return Flight(f"{trust} parts", request, upload.client)


def open_flights(service: Service, producer: Producer) -> list[Flight]:
    """Request a batch of each kind for each tenant, and read the results of the first chunks."""
    flights = [
        _parts_flight(service, trust, producer)
        if kind == "parts"
        else new_flight(service, kind, trust)
        for trust in TRUSTS
        for kind in (*KINDS, "parts")
    ]
    for flight in flights:
        flight.first.extend(producer.call("open", flight.client, request=flight.request))
    return flights


def request_again(flight: Flight, producer: Producer) -> list[Any]:
    """Send all chunks of a batch, again if it is open, by any client; return the results."""
    results = producer.call("request", flight.client, request=flight.request)
    return results if isinstance(results, list) else [results]


def audit_counts(engine: Engine, batch_id: str) -> tuple[int, int, int]:
    """Count the rows of a batch: decided chunks, granted items and refused items."""
    number = select(Batch.batch_number).where(Batch.batch_id == batch_id).scalar_subquery()
    chunks = select(func.count()).where(Chunk.batch_number == number)
    items = select(func.count()).where(Grant.batch_number == number)
    is_granted = Grant.digest.is_not(None)
    queries = (chunks, items.where(is_granted), items.where(~is_granted))
    with engine.connect() as connection:
        issued_chunks, granted, refused = (connection.scalar(query) or 0 for query in queries)
    return issued_chunks, granted, refused


def charged_and_granted(engine: Engine, tenant: str) -> tuple[int, int]:
    """Return the grants charged to a tenant this month, and those among its audit rows."""
    charged = select(func.sum(Usage.grants)).where(Usage.tenant == tenant, Usage.window == "month")
    granted = (
        select(func.count())
        .select_from(Grant)
        .join(Batch, Batch.batch_number == Grant.batch_number)
        .where(Batch.tenant == tenant, Grant.digest.is_not(None), Batch.kind != "parts")
    )
    with engine.connect() as connection:
        return connection.scalar(charged) or 0, connection.scalar(granted) or 0


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
class TwoReleases:
    """What producers were told by the workers and clients of a release and of the one after it.

    upgraded and rolled_back are batches across a change of the worker, with the results of sending
    them again; shared are batches by kind that workers of both releases answered. verified is the
    verification of all their rows by the later release.
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
    verified: Completed


@contextmanager
def told_by_both_releases(
    service: Service, current: Release, later: Release
) -> Iterator[TwoReleases]:
    """Run the current worker, then the later one, the current one again, and then both."""
    service.prepare(current)
    engine = create_database_engine(service.settings["VALETKEY_DATABASE_URL"])
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        producer = stack.enter_context(current.running_producer(service.folder))
        with service.running_worker(current):
            before = open_flights(service, producer)
        later.run(service.settings, ("migrate",))
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
        releases, batches = (current, later), (upgraded, rolled_back)
        told = (operations, commands, *batches, unknown, shared, usage)
        yield TwoReleases(releases, engine, *told, later.verify_log(service.settings))


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
