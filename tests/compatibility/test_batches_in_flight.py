"""Batches, bulk runs, webhooks and manifests that are in flight while the service is upgraded."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.compatibility.bulk_runs import KINDS as BULK_KINDS
from tests.support.compatibility.bulk_runs import ROWS
from tests.support.compatibility.claims import received_outcome
from tests.support.compatibility.flights import (
    CHUNK_SIZE,
    ITEMS,
    KINDS,
    AuditCounts,
    audit_counts,
    charged_and_granted,
)
from tests.support.compatibility.grants import read_manifest
from tests.support.compatibility.releases import current_release, previous_release
from tests.support.compatibility.services import TRUSTS, Servers, new_service, tenant_of
from tests.support.compatibility.upgrades import Upgrade, answered_by, upgraded
from tests.support.servers.databases import fresh_database

# The first test waits for the whole upgrade, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(400)

DATABASES = ("sqlite", "postgresql")
FLIGHTS = [f"{trust} {kind}" for trust in TRUSTS for kind in (*KINDS, "webhook", "complete")]
RELEASES = ("previous", "current")


@pytest.fixture(scope="module")
def upgrades(servers: Servers, postgres_url: str) -> Iterator[dict[str, Upgrade]]:
    """An upgrade on each database. Both run at the same time."""

    def start(database: str) -> Upgrade:
        folder: Path = servers.folder / database
        folder.mkdir()
        url = None
        if database == "postgresql":
            url = stack.enter_context(fresh_database(postgres_url))
        service = new_service(servers, DATABASES.index(database), url)
        releases = previous_release(folder), current_release(folder)
        return stack.enter_context(upgraded(service, *releases))

    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        yield dict(zip(DATABASES, pool.map(start, DATABASES), strict=True))


@pytest.fixture(params=DATABASES)
def upgrade(request: pytest.FixtureRequest, upgrades: dict[str, Upgrade]) -> Upgrade:
    return upgrades[request.param]


@pytest.fixture
def record_row(
    upgrade: Upgrade, record_claim: Callable[[str, str, str], None]
) -> Callable[[str], None]:
    """Count this test in a row, and in the column of its database."""
    return lambda row: record_claim("in flight", row, upgrade.engine.dialect.name)


def expected_codes(name: str) -> list[str | None]:
    """Return the refusal code of each item of a batch."""
    last = "key_outside_prefix" if name.endswith(" download") else None
    return [None] * (ITEMS - 1) + [last]


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_begun_before_the_upgrade_is_granted_completely(
    upgrade: Upgrade, name: str, record_row: Callable[[str], None]
) -> None:
    record_row(f"{name.split()[1]}: the rest is granted")
    flight = upgrade.flights[name]
    keys = [item["key"] for item in flight.request["items"]]
    assert [result.get("key") for result in flight.results] == keys
    assert [result.get("code") for result in flight.results] == expected_codes(name)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", FLIGHTS)
def test_a_chunk_sent_again_after_the_upgrade_gets_the_same_grants(
    upgrade: Upgrade, name: str, release: str, record_row: Callable[[str], None]
) -> None:
    record_row(f"{name.split()[1]}: a chunk sent again gets the same grants")
    assert upgrade.again[name, release] == upgrade.flights[name].results


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_across_the_upgrade_has_one_audit_row_for_each_item(
    upgrade: Upgrade, name: str, record_row: Callable[[str], None]
) -> None:
    record_row(f"{name.split()[1]}: one audit row for each item")
    refused = sum(code is not None for code in expected_codes(name))
    counts = audit_counts(upgrade.engine, upgrade.flights[name].id)
    assert counts == AuditCounts(ITEMS // CHUNK_SIZE, ITEMS - refused, refused)


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_begun_before_the_upgrade_can_be_reopened_after_it(
    upgrade: Upgrade, name: str, record_row: Callable[[str], None]
) -> None:
    record_row(f"{name.split()[1]}: reopened by its id")
    flight = upgrade.flights[name]
    refused = sum(code is not None for code in expected_codes(name))
    expected = {"state": [ITEMS, ITEMS - refused, refused, 0], "results": flight.results}
    reopened = [
        producer.call("reopen", client=flight.client, batch_id=flight.id)
        for producer in upgrade.producers
    ]
    assert reopened == [expected, expected]


def test_the_previous_worker_decided_only_the_first_chunks(upgrade: Upgrade) -> None:
    chunks = ITEMS // CHUNK_SIZE
    assert upgrade.decided_before == {
        name: chunks if "complete" in name else 1 for name in upgrade.flights
    }


def test_a_sealed_result_of_the_previous_worker_is_read_while_no_worker_runs(
    upgrade: Upgrade,
) -> None:
    assert upgrade.stored == upgrade.flights["signed complete"].results


@pytest.mark.parametrize("trust", TRUSTS)
def test_items_are_charged_once_across_the_upgrade(
    upgrade: Upgrade, trust: str, record_row: Callable[[str], None]
) -> None:
    record_row("charged once")
    charged, granted = charged_and_granted(upgrade.engine, tenant_of(trust))
    usage = upgrade.previous.call("usage", client=upgrade.service.client(trust))
    used = {quota["metric"]: quota["used"] for quota in usage}
    assert (charged, used["grants"]) == (granted, granted)


@pytest.mark.parametrize("trust", TRUSTS)
def test_webhooks_due_at_the_upgrade_are_sent_by_the_new_worker(
    upgrade: Upgrade, trust: str, record_row: Callable[[str], None]
) -> None:
    record_row("webhook: sent after the upgrade")
    flight = upgrade.flights[f"{trust} webhook"]
    for first in range(0, ITEMS, CHUNK_SIZE):
        results = flight.results[first : first + CHUNK_SIZE]
        for producer in upgrade.producers:
            outcome = received_outcome(producer, upgrade.service.servers, results[0]["id"], trust)
            assert [item["url"] for item in outcome["items"]] == [item["url"] for item in results]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("trust", TRUSTS)
def test_a_manifest_due_at_the_upgrade_is_written_by_the_new_worker(
    upgrade: Upgrade, trust: str, release: str, record_row: Callable[[str], None]
) -> None:
    record_row("manifest: written after the upgrade")
    flight = upgrade.flights[f"{trust} manifest"]
    producer = getattr(upgrade, release)
    manifest = producer.call("manifest", client=flight.client, batch_id=flight.id)
    lines = read_manifest(manifest, manifest["grant"]["url"])
    assert [line["key"] for line in lines] == [item["key"] for item in flight.request["items"]]
    assert (manifest["issued"], manifest["refused"]) == (ITEMS, 0)


@pytest.mark.parametrize("kind", BULK_KINDS)
def test_a_bulk_run_of_the_previous_client_is_resumed_by_the_current_one(
    upgrade: Upgrade, kind: str, record_row: Callable[[str], None]
) -> None:
    record_row(f"{kind}: an interrupted bulk run is resumed")
    (run,) = (run for run in upgrade.runs if run.kind == kind)
    exit_code, rows = run.resume(upgrade.current.release)
    assert (exit_code, [row["key"] for row in rows]) == (0, run.keys)
    (batch_id,) = {str(row["id"]).partition(".")[0] for row in rows}
    assert len({row["id"] for row in rows}) == ROWS
    assert audit_counts(upgrade.engine, batch_id) == AuditCounts(6, ROWS, 0)


def test_batches_of_both_clients_are_granted_by_workers_of_both_releases_at_once(
    upgrade: Upgrade, record_row: Callable[[str], None]
) -> None:
    record_row("workers of both releases at once")
    shared = set()
    for _, flight in upgrade.rolling:
        assert {result.get("code") for result in flight.results} == {None}
        assert len({result["id"] for result in flight.results}) == 12
        assert audit_counts(upgrade.engine, flight.id) == AuditCounts(12, 12, 0)
        workers = [answered_by(upgrade, each.release, flight.id) for each in upgrade.producers]
        if all(workers):
            shared.add(flight.kind)
    assert shared == {"download", "upload", "put", "multipart"}


@pytest.mark.parametrize("release", RELEASES)
def test_every_process_of_the_upgrade_runs_the_code_of_its_release(
    upgrade: Upgrade, release: str
) -> None:
    tree = getattr(upgrade, release).release
    imports = tree.imports()
    assert all(each.origin.startswith(f"{tree.folder}/") for each in imports)
    assert {each.package for each in imports} == {"valetkey", "worker", "models", "celeryconfig"}
