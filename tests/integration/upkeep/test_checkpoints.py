"""Tests the job of the upkeep worker that signs and publishes checkpoints."""

from pathlib import Path

import pytest

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.crypto.checkpoints import KEYS, settings
from worker.errors import Transient
from worker.settings import Settings
from worker.usecases.upkeep.checkpoints import REPUBLISH_SECONDS, RETRY_SECONDS, CheckpointJob


class Timer:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_the_upkeep_worker_signs_and_publishes_at_its_interval(
    service: InProcessService, apply_config: ApplyConfig, tmp_path: Path, clock: Clock
) -> None:
    apply_config(tenant_config())
    key_file = tmp_path / "key"
    key_file.write_text(KEYS.signer.dump())
    key_file.chmod(0o600)
    values = {"audit_key_file": key_file, "audit_origin": KEYS.signer.name}
    timer = Timer()
    job = CheckpointJob(lambda: settings(tmp_path / "out", **values), timer)
    counts = []
    for seconds in (0.0, 3_599.0, 1.0, 3_600.0):
        service.issue(grant_message())
        clock.forward(seconds=seconds)
        timer.seconds += seconds
        counts.append(job(service.context))
    done = {"signed": 1, "refused": 0, "published": 1, "failed": 0}
    assert counts == [done, {}, done, done]
    assert len(list((tmp_path / "out" / "acme").iterdir())) == 3


def test_a_destination_and_a_key_that_failed_are_tried_again_before_the_next_interval(
    service: InProcessService, apply_config: ApplyConfig, tmp_path: Path
) -> None:
    apply_config(tenant_config())
    key_file, out = tmp_path / "key", tmp_path / "out"
    values = {"audit_key_file": key_file, "audit_origin": KEYS.signer.name}
    timer = Timer()
    job = CheckpointJob(lambda: settings(out, **values), timer)
    service.issue(grant_message())
    with pytest.raises(Transient, match="cannot be read"):
        job(service.context)
    key_file.write_text(KEYS.signer.dump())
    key_file.chmod(0o600)
    assert job(service.context) == {}
    out.write_text("a file instead of a folder")
    timer.seconds += RETRY_SECONDS
    assert job(service.context) == {"signed": 1, "refused": 0, "published": 0, "failed": 1}
    out.unlink()
    service.issue(grant_message())
    timer.seconds += REPUBLISH_SECONDS - 1
    assert job(service.context) == {}
    timer.seconds += 1
    assert job(service.context) == {"published": 1, "failed": 0}
    timer.seconds += 3_599 - REPUBLISH_SECONDS
    assert job(service.context) == {}


def test_the_upkeep_worker_signs_nothing_without_a_key(service: InProcessService) -> None:
    assert CheckpointJob(Settings)(service.context) == {}
