"""Requests that wait together: today's client with the previous worker, and with today's."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compatibility.releases import current_release, kill_worker, previous_release
from tests.support.compatibility.services import TRUSTS, Servers, Service, new_service, tenant_of
from valetkey import AsyncClient

RELEASES = {"previous": previous_release, "current": current_release}
_COUNT = 40


@pytest.fixture(scope="module", params=RELEASES)
def service(request: pytest.FixtureRequest, servers: Servers) -> Iterator[tuple[Service, Path]]:
    """A service of one release, and the log of its worker."""
    release = RELEASES[request.param](servers.folder)
    service = new_service(servers, list(RELEASES).index(request.param))
    service.prepare(release)
    log = service.log_of(release)
    with release.running_worker(service.settings, log) as child:
        yield service, log
        kill_worker(child)


@pytest.mark.parametrize("trust", TRUSTS)
def test_requests_that_wait_together_are_all_granted_by_a_worker_of_either_release(
    service: tuple[Service, Path], trust: str
) -> None:
    running, log = service
    already_logged = log.stat().st_size

    async def request_all() -> None:
        async with AsyncClient(**running.client(trust), requested_by="test") as client:
            for number in range(3):
                keys = [f"{tenant_of(trust)}/{number}/{key}" for key in range(_COUNT)]
                grants = await asyncio.gather(*(client.download("demo", key) for key in keys))
                assert [grant.key for grant in grants] == keys

    asyncio.run(request_all())
    lines = log.read_text()[already_logged:]
    refusals = re.findall(r"malformed", lines)
    if log.name.startswith("previous"):
        assert 1 <= len(refusals) <= 2  # those that were on their way, and none afterwards
    else:
        assert "bundled" in lines
        assert not refusals
