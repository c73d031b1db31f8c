import pytest
from sqlalchemy import Engine

from tests.support.builders.delivery_service import DeliveryService
from tests.support.builders.manifest_service import ManifestService
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from worker.dev.embedded_servers import Storage


@pytest.fixture
def manifests(
    engine: Engine, seaweed: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> ManifestService:
    return ManifestService(engine, seaweed, clock, monkeypatch)


@pytest.fixture
def webhooks(service: InProcessService) -> DeliveryService:
    return DeliveryService(service)
