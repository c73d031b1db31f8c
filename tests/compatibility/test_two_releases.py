"""This checkout after the last release, and before a simulated next one, whose wire has grown."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.compatibility.archives import extract_release
from tests.support.compatibility.releases import (
    CHECKOUT,
    PACKAGES,
    TRUSTS,
    Release,
    running_servers,
    tenant_of,
)
from tests.support.compatibility.told import (
    CHUNK_SIZE,
    ITEMS,
    KINDS,
    TIMEOUT,
    UNKNOWN,
    Flight,
    TwoReleases,
    audit_counts,
    charged_and_granted,
    next_release,
    told_by_both_releases,
)

# The first test waits for all operations, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(400)

FLIGHTS = [f"{trust} {kind}" for trust in TRUSTS for kind in (*KINDS, "parts")]


@pytest.fixture(scope="module", params=["last", "next"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoReleases]:
    folder = tmp_path_factory.mktemp("compatibility")
    checkout = Release("current", CHECKOUT)
    if request.param == "last":
        releases = extract_release(folder), checkout
    else:
        releases = checkout, next_release(folder)
    with running_servers(folder) as service, told_by_both_releases(service, *releases) as told:
        yield told


after_the_last = pytest.mark.parametrize("told", ["last"], indirect=True)
before_the_next = pytest.mark.parametrize("told", ["next"], indirect=True)


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
    "parts: granted": lambda result: [*map(is_granted, result)] == [True],
    **{f"{kind}: refused": has_code("weather_bad") for kind in KINDS},
    "parts: refused": lambda result: result[0]["code"] == "upload_unknown",
    "usage": has_new_metric,
    "service": lambda result: "parts" in result["kinds"],
    "cancel": lambda result: result["issued"] == 4,
    "reopened batch": is_reopened,
    "explain": is_explained,
    "manifest": lambda result: (result["issued"], result["refused"]) == (4, 1),
    "webhook": is_granted,
}


@before_the_next
@pytest.mark.parametrize("operation", GROWN)
def test_a_client_reads_the_grown_replies_of_the_next_release(
    told: TwoReleases, operation: str
) -> None:
    assert GROWN[operation](told.operations[operation])


UNDERSTOOD: Mapping[str, Callable[[Any], bool]] = {
    **{f"{kind}: granted": lambda result: bool(result["url"]) for kind in KINDS},
    **{f"{kind}: refused": has_code("key_outside_prefix") for kind in KINDS},
    "usage": lambda result: [quota["metric"] for quota in result] == ["grants", "upload_bytes"],
    **{name: GROWN[name] for name in ("parts: refused", "service", "cancel", "manifest")},
    "reopened batch": lambda result: result["again"] == result["first"],
}


@after_the_last
@pytest.mark.parametrize("operation", UNDERSTOOD)
def test_a_client_of_the_last_release_reads_the_replies_of_this_checkout(
    told: TwoReleases, operation: str
) -> None:
    assert UNDERSTOOD[operation](told.operations[operation])


def test_the_later_release_verifies_the_rows_of_the_earlier_one(told: TwoReleases) -> None:
    assert told.verified.returncode == 0, told.verified.stdout


@before_the_next
@pytest.mark.parametrize(
    ("command", "exit_code", "text"),
    [("granted", 0, "session"), ("refused", 1, "weather_bad"), ("usage", 0, "copies")],
)
def test_a_command_prints_the_grown_replies_of_the_next_release(
    told: TwoReleases, command: str, exit_code: int, text: str
) -> None:
    code, printed = told.commands[command]
    assert (code, text in printed) == (exit_code, True)


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_in_flight_continues_after_an_upgrade_to_the_next_release(
    told: TwoReleases, name: str
) -> None:
    check_flight(told.engine, *told.upgraded[name])


@pytest.mark.parametrize("name", FLIGHTS)
def test_a_batch_begun_by_the_next_release_continues_after_a_return_to_this_one(
    told: TwoReleases, name: str
) -> None:
    check_flight(told.engine, *told.rolled_back[name])


def check_flight(engine: Engine, flight: Flight, again: list[Any]) -> None:
    """Check that each item of a batch is granted and audited once, also if it is sent again."""
    keys = [item["key"] for item in flight.request["items"]]
    results = [(result.get("key"), result.get("code")) for result in flight.results]
    assert results == [(key, None) for key in keys]
    assert again == flight.results
    assert audit_counts(engine, flight.id) == (ITEMS // CHUNK_SIZE, ITEMS, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_of_both_releases_share_a_batch(told: TwoReleases, kind: str) -> None:
    flight = told.shared[kind]
    assert [result.get("code") for result in flight.results] == [None] * 12
    assert audit_counts(told.engine, flight.id) == (12, 12, 0)


@pytest.mark.parametrize("trust", TRUSTS)
def test_items_are_charged_once_by_workers_of_both_releases(told: TwoReleases, trust: str) -> None:
    charged, granted = charged_and_granted(told.engine, tenant_of(trust))
    used = {quota["metric"]: quota["used"] for quota in told.usage[trust]}
    assert (charged, used["grants"]) == (granted, granted)
    assert granted > 0


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_only_a_newer_client_knows_is_refused_by_name_and_at_once(
    told: TwoReleases, name: str
) -> None:
    reply, seconds = told.unknown[name]
    assert (reply.get("code"), reply.get("field")) == UNKNOWN[name][3]
    assert seconds < TIMEOUT


def test_a_process_of_a_release_imports_its_packages(told: TwoReleases) -> None:
    for release in told.releases:
        origins = release.origins()
        assert len(origins) == len(PACKAGES)
        assert all(origin.startswith(f"{release.folder}/") for origin in origins)
