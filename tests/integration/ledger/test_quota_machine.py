"""Runs random steps, in any order and concurrently: usage equals what was granted."""

import os
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.builders.messages import batch_id
from tests.support.features import needs
from tests.support.quota_model.checked_service import CheckedService
from tests.support.quota_model.model import (
    MAX_BYTES,
    MAX_SECONDS,
    METRICS,
    WINDOWS,
    CancelStep,
    CleanupStep,
    IssueStep,
    ModelBatch,
    ModelItem,
    Step,
)
from tests.support.servers.databases import NewDatabase, migrated_temporary_file
from valetkey.wire.refusals import Metric, Window
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.rules.tenant_config import QuotaOverride

EXAMPLES = int(os.environ.get("VALETKEY_TEST_EXAMPLES", "40"))
MAX_REMOVALS = 2
MAX_LIMITS = {"grants": 24, "download_grants": 18, "upload_bytes": 18 * MAX_BYTES}

choices = st.integers(0, 5)  # taken modulo the number of options
metrics = st.sampled_from(METRICS)
windows = st.sampled_from(WINDOWS)
sixths = st.integers(1, 6)  # of the maximum limit
new_batches = st.integers(1, 2).flatmap(
    lambda size: st.builds(
        ModelBatch,
        st.just(""),
        st.sampled_from(["download", "upload", "put"]),
        st.sampled_from([*[60, 3_600, MAX_SECONDS] * 2, MAX_SECONDS + 1]),  # seconds
        st.just(size),
        st.lists(
            st.builds(ModelItem, st.integers(0, MAX_BYTES), st.integers(0, 3).map(bool)),
            min_size=size,
            max_size=3 * size,
        ),
    )
)
step_names = st.sampled_from(["issue", "issue", "issue", "cancel", "cleanup"])
waits = st.sampled_from(  # to ends of windows and of grants, and beyond everything that is kept
    [timedelta(seconds=seconds) for seconds in (1, 59, 60, 1_799, 3_600)]
    + [timedelta(days=days) for days in (1, 1, 2, 31)]
)


class QuotaMachine(RuleBasedStateMachine):
    """Runs random steps on the service, and compares results and tables with the model.

    cleanup_can_be_concurrent is false on databases where cleanup skips the rows that a concurrent
    step has locked, because its result then depends on timing.
    """

    batches: Bundle[str] = Bundle("batches")

    def __init__(
        self, new_database: NewDatabase, s3: S3Clients, *, cleanup_can_be_concurrent: bool
    ) -> None:
        super().__init__()
        self.cleanup_can_be_concurrent = cleanup_can_be_concurrent
        self._stack = ExitStack()
        url = self._stack.enter_context(new_database())
        engines = [create_database_engine(url), create_database_engine(url)]
        for engine in engines:
            self._stack.callback(engine.dispose)
        self.service = CheckedService(engines, s3)

    def teardown(self) -> None:
        self._stack.close()

    @initialize(limits=st.dictionaries(st.tuples(metrics, windows), sixths, max_size=4))
    def configure_tenant(self, limits: dict[tuple[Metric, Window], int]) -> None:
        self.service.apply_config()
        for (metric, window), limit_sixths in limits.items():
            self.set_quota(metric, window, limit_sixths)

    @rule(target=batches, batch=new_batches, chunks=st.lists(choices, max_size=3))
    def send_new_batch(self, batch: ModelBatch, chunks: list[int]) -> str:
        id_ = self._add_batch(batch)
        self.send_chunks(id_, chunks)
        return id_

    @rule(target=batches, batch=new_batches, chunk=choices, chunk2=choices, name2=step_names)
    def send_new_batch_concurrently(
        self, batch: ModelBatch, chunk: int, chunk2: int, name2: str
    ) -> str:
        id_ = self._add_batch(batch)
        self.run_concurrently(id_, id_, chunk, chunk2, "issue", name2)
        return id_

    @rule(batch=batches, chunks=st.lists(choices, min_size=1, max_size=3))
    def send_chunks(self, batch: str, chunks: list[int]) -> None:
        for chunk in chunks:
            self.service.run(self._issue_step(batch, chunk))

    @rule(batch=batches)
    def cancel_batch(self, batch: str) -> None:
        self.service.run(CancelStep(batch))

    @rule(
        batch=batches,
        batch2=batches,
        chunk=choices,
        chunk2=choices,
        name=step_names,
        name2=step_names,
    )
    def run_concurrently(
        self, batch: str, batch2: str, chunk: int, chunk2: int, name: str, name2: str
    ) -> None:
        steps = [self._step(name, batch, chunk), self._step(name2, batch2, chunk2)]
        self.service.run_concurrently(steps)

    @rule(duration=waits, has_cleanup=st.booleans())
    def wait(self, duration: timedelta, *, has_cleanup: bool) -> None:
        self.service.clock.time += duration
        if has_cleanup:
            self.service.run(CleanupStep())

    @rule(metric=metrics, window=windows, limit_sixths=sixths)
    def set_quota(self, metric: Metric, window: Window, limit_sixths: int) -> None:
        self.service.model.limits[metric, window] = MAX_LIMITS[metric] * limit_sixths // 6
        self.service.apply_config()

    @precondition(lambda self: self.service.model.limits)
    @rule(choice=choices, extra_sixths=sixths, hours=st.integers(1, 3))
    def add_override(self, choice: int, extra_sixths: int, hours: int) -> None:
        limits = sorted(self.service.model.limits)
        metric, window = limits[choice % len(limits)]
        expires_at = self.service.clock() + timedelta(hours=hours)
        extra = MAX_LIMITS[metric] * extra_sixths // 6
        self.service.add_override(QuotaOverride(metric, window, extra, expires_at))

    @precondition(lambda self: len(self.service.model.removed) < MAX_REMOVALS)
    @rule()
    def replace_tenant(self) -> None:
        self.service.replace_tenant()

    @invariant()
    def check_tables(self) -> None:
        self.service.check_tables()

    def _add_batch(self, batch: ModelBatch) -> str:
        id_ = batch_id()
        self.service.model.batches[id_] = replace(batch, id=id_, results={})
        return id_

    def _step(self, name: str, batch: str, chunk: int) -> Step:
        if name == "issue":
            return self._issue_step(batch, chunk)
        if name == "cleanup" and self.cleanup_can_be_concurrent:
            return CleanupStep()
        return CancelStep(batch)

    def _issue_step(self, batch: str, chunk: int) -> IssueStep:
        return IssueStep(batch, chunk % len(self.service.model.batches[batch].chunks))


def run_machine(new_database: NewDatabase, examples: int, *, concurrent_cleanup: bool) -> None:
    s3 = S3Clients()

    class Machine(QuotaMachine):
        def __init__(self) -> None:
            super().__init__(new_database, s3, cleanup_can_be_concurrent=concurrent_cleanup)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


# Hypothesis shrinks a failing example before it reports it: that takes minutes.
pytestmark = [pytest.mark.timeout(600 + 2 * EXAMPLES), needs("cancel")]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


def test_usage_equals_what_was_granted_on_sqlite() -> None:
    run_machine(migrated_temporary_file, EXAMPLES, concurrent_cleanup=True)


def test_usage_equals_what_was_granted_on_postgresql(new_postgres: NewDatabase) -> None:
    run_machine(new_postgres, EXAMPLES // 4, concurrent_cleanup=False)
