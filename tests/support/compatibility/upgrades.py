"""An upgrade of a service from the previous release to the current one, with batches in flight."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
from sqlalchemy import Engine

from tests.support.compatibility.bulk_runs import KINDS as BULK_KINDS
from tests.support.compatibility.bulk_runs import BulkRun, interrupted_run
from tests.support.compatibility.flights import (
    Flight,
    audit_counts,
    finish_flight,
    flights_of_each_kind,
    new_flight,
    open_flight,
    request_again,
)
from tests.support.compatibility.producers import Producer, running_producer
from tests.support.compatibility.releases import Release, kill_worker
from tests.support.compatibility.services import TRUSTS, Service
from tests.support.servers.waiting import wait_until
from worker.db.engine import create_database_engine

MAX_ROLLING_BATCHES = 20


@dataclass
class Upgrade:
    """A service that is upgraded, the producers of both releases, and what they were told.

    decided_before has the number of chunks of each batch that the previous worker decided; stored
    the results that the current client reads while no worker runs; again those of batches that
    either client requests again, by batch and release.
    """

    service: Service
    previous: Producer
    current: Producer
    engine: Engine
    flights: dict[str, Flight] = field(default_factory=dict)
    runs: list[BulkRun] = field(default_factory=list)
    decided_before: dict[str, int] = field(default_factory=dict)
    stored: Any = None
    again: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    rolling: list[tuple[str, Flight]] = field(default_factory=list)

    @property
    def producers(self) -> tuple[Producer, Producer]:
        """The producers of both releases."""
        return self.previous, self.current

    def worker(self, stack: ExitStack, release: Release, *options: str) -> Any:
        """Run a worker of a release on the service's database and queues."""
        log = self.service.log_of(release)
        return stack.enter_context(release.running_worker(self.service.settings, log, *options))


@contextmanager
def upgraded(service: Service, previous: Release, current: Release) -> Iterator[Upgrade]:
    """Upgrade a service; a worker of each release runs until the block ends."""
    service.prepare(previous)
    engine = create_database_engine(service.database_url)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        old = stack.enter_context(running_producer(previous, service.folder))
        new = stack.enter_context(running_producer(current, service.folder))
        upgrade = Upgrade(service, old, new, engine)
        with ExitStack() as before:
            upgrade.worker(before, previous, "--only", "issue")  # what upkeep would do stays due
            _open_flights(upgrade)
            upgrade.runs = [interrupted_run(service, kind, previous) for kind in BULK_KINDS]
        _change_without_worker(upgrade, current)
        stack.callback(kill_worker, upgrade.worker(stack, current))
        _finish_flights(upgrade)
        stack.callback(kill_worker, upgrade.worker(stack, previous, "--only", "issue"))
        _roll(upgrade, previous, current)
        yield upgrade


def _open_flights(upgrade: Upgrade) -> None:
    service = upgrade.service
    flights = flights_of_each_kind(service, upgrade.previous)
    for trust in TRUSTS:
        for name, options in (("webhook", {"callback": "hook"}), ("complete", {})):
            flights.append(
                new_flight(service, "download", trust, name=f"{trust} {name}", options=options)
            )
        manifest = new_flight(service, "download", trust, name=f"{trust} manifest")
        manifest.request["manifest"] = f"{manifest.request['items'][0]['key']}.jsonl.gz"
        flights.append(manifest)
    for flight in flights:
        if flight.name == f"{flight.trust} download":
            flight.request["items"][-1]["key"] = "elsewhere"
        upgrade.flights[flight.name] = flight
        if "complete" in flight.name:
            flight.first.extend(request_again(flight, upgrade.previous))
        else:
            open_flight(flight, upgrade.previous)
        wait_until(lambda: audit_counts(upgrade.engine, flight.id).chunks)  # noqa: B023 - called now


def _change_without_worker(upgrade: Upgrade, current: Release) -> None:
    """While no worker runs, read stored results, send the rest of batches, and migrate."""
    upgrade.decided_before = {
        name: audit_counts(upgrade.engine, flight.id).chunks
        for name, flight in upgrade.flights.items()
    }
    complete = upgrade.flights["signed complete"]
    upgrade.stored = request_again(complete, upgrade.current)
    upgrade.previous.call("release")
    with redis.Redis.from_url(upgrade.service.settings["VALETKEY_BROKER_URL"]) as broker:
        wait_until(lambda: broker.llen("valetkey") >= len(upgrade.flights), what="rest is sent")
    current.run(upgrade.service.settings, ("migrate",))


def _finish_flights(upgrade: Upgrade) -> None:
    for flight in upgrade.flights.values():
        if "complete" not in flight.name:
            finish_flight(flight, upgrade.previous)
        for producer in upgrade.producers:
            again = request_again(flight, producer)
            upgrade.again[flight.name, producer.release.name] = again


def _roll(upgrade: Upgrade, previous: Release, current: Release) -> None:
    """Request batches of every kind by both clients until both workers have answered each kind."""
    logs = [upgrade.service.log_of(release) for release in (previous, current)]

    def workers_of(flight: Flight) -> int:
        text = f'"{flight.id}"'
        return sum(text in log.read_text(errors="replace") for log in logs)

    for kind in ("download", "upload", "put", "multipart"):
        for _ in range(MAX_ROLLING_BATCHES):
            flights = []
            for producer, trust in zip(upgrade.producers, TRUSTS, strict=True):
                flight = new_flight(upgrade.service, kind, trust, items=12, chunk_size=1)
                arguments = {"client": flight.client, "request": flight.request}
                producer.start("request", **arguments)
                flights.append((producer.release.name, flight))
            for producer, (_, flight) in zip(upgrade.producers, flights, strict=True):
                results = producer.read()
                flight.rest.extend(results if isinstance(results, list) else [results])
            upgrade.rolling += flights
            if all(workers_of(flight) == 2 for _, flight in flights):
                break


def answered_by(upgrade: Upgrade, release: Release, batch_id: str) -> set[int]:
    """Return the chunks of a batch that a worker of a release answered, by its log."""
    lines = upgrade.service.log_of(release).read_text(errors="replace").splitlines()
    records = [json.loads(line) for line in lines if f'"{batch_id}"' in line]
    return {record["chunk"] for record in records if record.get("event") == "answered"}
