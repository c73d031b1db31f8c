from collections.abc import Iterator

import pytest

from tests.support.builders.keyed_service import (
    Respond,
    keyed_client,
    running_keyed_service,
    wire_result,
)
from tests.support.fakes.fake_service import running_fake_service
from valetkey import Client


@pytest.fixture
def client(broker: str) -> Iterator[Client]:
    """A client of the empty broker."""
    client = Client(broker, tenant="acme", requested_by="test")
    yield client
    client.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Respond]:
    """The service with a tenant that has a key."""
    with running_keyed_service(tmp_path_factory.mktemp("keyed")) as service:
        yield service


@pytest.fixture
def keyed(service: Respond, broker: str) -> Iterator[Client]:
    """A client with the tenant's key, of the service, which is running."""
    with running_fake_service(broker, decide=wire_result(service)), keyed_client(broker) as client:
        yield client
