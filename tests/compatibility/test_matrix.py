"""Today's worker against the previous client, and today's client against the previous worker."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.compatibility.claims import CLAIMS, COMMANDS_ONLY, NOT_COMMANDS, Cell
from tests.support.compatibility.producers import Producer, running_producer
from tests.support.compatibility.releases import (
    Release,
    current_release,
    kill_worker,
    previous_release,
)
from tests.support.compatibility.services import (
    TRUSTS,
    Servers,
    Service,
    new_service,
    tenant_of,
)

# The first test waits for all operations, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(400)

PAIRS = ("previous client, current worker", "current client, previous worker")
STYLES = ("sync", "async", "CLI")
CELLS = [
    (pair, operation, style, trust)
    for pair in PAIRS
    for operation in CLAIMS
    for style in STYLES
    for trust in TRUSTS
    if operation not in (NOT_COMMANDS if style == "CLI" else COMMANDS_ONLY)
]
Results = Mapping[tuple[str, str, str], tuple[Cell, Mapping[str, Any]]]


@pytest.fixture(scope="module")
def releases(servers: Servers) -> dict[str, Release]:
    folder = servers.folder
    return {"previous": previous_release(folder), "current": current_release(folder)}


@pytest.fixture(scope="module")
def results(servers: Servers, releases: dict[str, Release]) -> Iterator[Results]:
    """The result of every operation, by pair, style and trust."""

    def start(pair: str) -> tuple[str, Producer, list[Cell]]:
        client, worker = (releases[side.split()[0]] for side in pair.split(", "))
        service = new_service(servers, PAIRS.index(pair))
        service.prepare(worker)
        log = service.log_of(worker)
        child = stack.enter_context(worker.running_worker(service.settings, log))
        stack.callback(kill_worker, child)
        producer = stack.enter_context(running_producer(client, service.folder))
        return pair, producer, start_calls(producer, service)

    with ExitStack() as stack:
        with ThreadPoolExecutor() as pool:
            started = list(pool.map(start, PAIRS))
        yield {
            (pair, cell.style, cell.trust): (cell, producer.read())
            for pair, producer, cells in started
            for cell in cells
        }


def start_calls(producer: Producer, service: Service) -> list[Cell]:
    """Start all operations of a pair; return the cells in the order of their results."""
    cells = []
    for style in STYLES:
        for trust in TRUSTS:
            names = [tenant_of(trust), tenant_of(trust, "-small")]
            prefixes = [f"{name}/{producer.release.name}/{style}" for name in names]
            cells.append(Cell(producer, service.servers, style, trust, prefixes[0]))
            if style == "CLI":
                producer.start(
                    "commands",
                    main=service.command_environ(trust),
                    limited=service.command_environ(trust, "-small"),
                    prefixes=prefixes,
                    folder=str(service.folder),
                )
            else:
                clients = {
                    "main": service.client(trust),
                    "limited": service.client(trust, "-small"),
                }
                producer.start("operations", style=style, prefixes=prefixes, **clients)
    return cells


@pytest.mark.parametrize(("pair", "operation", "style", "trust"), CELLS)
def test_an_operation_has_the_same_result_across_releases(
    results: Results,
    pair: str,
    operation: str,
    style: str,
    trust: str,
    record_claim: Callable[[str, str, str], None],
) -> None:
    record_claim("across releases", operation, f"{pair}: {style}")
    cell, by_operation = results[pair, style, trust]
    CLAIMS[operation](by_operation[operation], cell)


@pytest.mark.parametrize("name", ["previous", "current"])
def test_every_process_runs_the_code_of_its_release(
    results: Results, releases: dict[str, Release], name: str
) -> None:
    release = releases[name]
    producers = {cell.producer.pid for cell, _ in results.values()}
    imports = release.imports()
    assert all(each.origin.startswith(f"{release.folder}/") for each in imports)
    packages = {each.package for each in imports if each.pid not in producers}
    assert packages == {"valetkey", "worker", "models", "celeryconfig"}
    assert {each.package for each in imports if each.pid in producers} == {"valetkey"}
