import pytest
from sqlalchemy import Engine

from tests.support.builders.manifest_service import ManifestService
from tests.support.builders.messages import Clock
from worker.devstack.storage import Storage


@pytest.fixture
def manifests(
    engine: Engine, seaweed: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> ManifestService:
    """The service that writes manifests to real storage."""
    return ManifestService(engine, seaweed, clock, monkeypatch)
