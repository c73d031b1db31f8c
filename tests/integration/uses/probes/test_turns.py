"""Bucket profiles with ended upload slots take turns, and none holds its turn for long."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from models import EndedSlot
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import config
from tests.support.s3.unreliable_storage import UnreliableStorage
from tests.support.uses.charges import rows
from tests.support.uses.uploading import Uploader
from worker.core.tenants.config import TenantConfig
from worker.usecases.uses import settle as settle_module

Settle = Callable[[], dict[str, int]]


def demo_and_other() -> TenantConfig:
    """Return the config with a second profile of the same bucket."""
    demo, policies = config().buckets["demo"], config().tenants["acme"].policies
    policies = {**policies, "other": replace(policies["demo"], bucket="other")}
    buckets = {"demo": demo, "other": replace(demo, name="other")}
    return TenantConfig(buckets, config(policies=policies).tenants)


def test_a_profile_with_many_chunks_gives_way_to_another_one(
    uploader: Uploader,
    settle: Settle,
    storage: UnreliableStorage,
    apply_config: ApplyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply_config(demo_and_other())
    monkeypatch.setattr(settle_module, "MAX_BUCKETS", 1)
    monkeypatch.setattr(settle_module, "MAX_TURN_SECONDS", 0.0)
    for key in ("acme/1", "acme/2", "acme/3"):
        uploader.form(key)
    uploader.form("acme/other", bucket="other")
    assert settle() == {"settled": 4}
    asked = [request.target.rpartition("/")[2] for request in storage.server.requests("HEAD")]
    assert asked == ["1", "other", "2", "3"]


def test_a_chunk_whose_storage_takes_longer_than_its_claim_is_left_for_later(
    engine: Engine,
    uploader: Uploader,
    settle: Settle,
    storage: UnreliableStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_time(*_: Any) -> timedelta:
        return timedelta(0)

    monkeypatch.setattr(settle_module, "lease", no_time)
    uploader.request("upload", "acme/1", "acme/2")
    assert settle() == {"postponed": 1}
    assert storage.count("HEAD") == 0
    assert len(rows(engine, EndedSlot.chunk_number)) == 1
