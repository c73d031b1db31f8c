"""The servers of these tests."""

from collections.abc import Iterator

import pytest

from tests.support.compatibility.services import Servers, running_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers for all services of a module."""
    with running_servers(tmp_path_factory.mktemp("compatibility")) as running:
        yield running
