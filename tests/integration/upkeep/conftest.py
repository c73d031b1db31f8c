import pytest
from sqlalchemy import Engine

from tests.support.builders.delivery_service import DeliveryService
from tests.support.builders.manifest_service import ManifestService
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from worker.devstack.storage import Storage


@pytest.fixture
def manifests(
    engine: Engine, seaweed: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> ManifestService:
    """The service that writes manifests to real storage."""
    return ManifestService(engine, seaweed, clock, monkeypatch)


@pytest.fixture
def webhooks(service: InProcessService) -> DeliveryService:
    """The service that delivers webhooks, with a config of three tenants."""
    return DeliveryService(service)
