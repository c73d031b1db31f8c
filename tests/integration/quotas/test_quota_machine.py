"""Runs random steps, in any order and concurrently: usage equals what was granted."""

import os
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar

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
from tests.support.crypto import tokens
from tests.support.quota_model.batches import MAX_BYTES, ModelBatch
from tests.support.quota_model.checked_service import CheckedService
from tests.support.quota_model.model import CancelStep, CleanupStep, IssueStep, Step
from tests.support.quota_model.strategies import (
    choices,
    metrics,
    new_batches,
    sixths,
    step_names,
    waits,
    windows,
)
from tests.support.servers.databases import NewDatabase, migrated_temporary_file
from valetkey.crypto.keys import PrivateKey, generate_key
from valetkey.wire.refusals import Metric, Window
from worker.aws.clients import S3Clients
from worker.core.tenants.config import QuotaOverride
from worker.db.engine import create_database_engine

EXAMPLES = int(os.environ.get("VALETKEY_TEST_EXAMPLES", "40"))
KEYS = [generate_key(f"acme/key-{number}") for number in range(6)]
MAX_REMOVALS = 2
MAX_LIMITS = {"grants": 24, "download_grants": 18, "upload_bytes": 18 * MAX_BYTES}


class QuotaMachine(RuleBasedStateMachine):
    """Runs random steps on the service, and compares results and tables with the model.

    cleanup_can_be_concurrent is false on databases where cleanup skips the rows that a concurrent
    step has locked, because its result then depends on timing.
    """

    batches: Bundle[str] = Bundle("batches")
    s3: ClassVar[S3Clients]
    cleanup_can_be_concurrent: ClassVar[bool]

    def database(self) -> AbstractContextManager[str]:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        url = self._stack.enter_context(self.database())
        engines = [create_database_engine(url), create_database_engine(url)]
        for engine in engines:
            self._stack.callback(engine.dispose)
        self.service = CheckedService(engines, self.s3)
        self.valid_keys: list[PrivateKey] = []
        self.ended_keys: list[tuple[PrivateKey, str]] = []

    def teardown(self) -> None:
        self._stack.close()

    @initialize(limits=st.dictionaries(st.tuples(metrics, windows), sixths, max_size=4))
    def configure_tenant(self, limits: dict[tuple[Metric, Window], int]) -> None:
        self.add_key()
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
            self.service.run(self._issue_step(batch, chunk), self.valid_keys[-1])

    @rule(batch=batches)
    def cancel_batch(self, batch: str) -> None:
        self.service.run(CancelStep(batch), self.valid_keys[-1])

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
        self.service.run_concurrently(steps, self.valid_keys[-1])

    @rule(duration=waits, has_cleanup=st.booleans())
    def wait(self, duration: timedelta, *, has_cleanup: bool) -> None:
        self.service.clock.time += duration
        if has_cleanup:
            self.service.run(CleanupStep(), self.valid_keys[-1])

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

    def add_key(self) -> None:
        key = KEYS[len(self.valid_keys) + len(self.ended_keys)]
        self.service.keys |= tokens.tenant_keys(key)
        self.valid_keys.append(key)
        self.service.apply_config()

    @precondition(lambda self: len(self.ended_keys) + 1 < len(KEYS))
    @rule(code=st.sampled_from(["key_revoked", "key_expired", "key_unknown"]))
    def rotate_key(self, code: str) -> None:
        self.add_key()
        key = self.valid_keys.pop(0)
        name = key.id.partition("/")[2]
        tenant_key = self.service.keys.pop(name)
        self.ended_keys.append((key, code))
        if code == "key_revoked":
            self.service.keys[name] = replace(tenant_key, revoked=True)
        elif code == "key_expired":
            self.service.keys[name] = replace(tenant_key, expires=self.service.clock())
        self.service.apply_config()

    @precondition(lambda self: self.ended_keys)
    @rule(batch=batches, choice=choices)
    def send_chunk_signed_by_ended_key(self, batch: str, choice: int) -> None:
        key, code = self.ended_keys[choice % len(self.ended_keys)]
        message = self.service.message(self._issue_step(batch, choice))
        sent_code = "signature_invalid" if code == "key_unknown" else code
        assert self.service.respond(message, key)["refusal"]["code"] == sent_code

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
    class Machine(QuotaMachine):
        s3 = S3Clients()
        cleanup_can_be_concurrent = concurrent_cleanup

        def database(self) -> AbstractContextManager[str]:
            return new_database()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


# Hypothesis shrinks a failing example before it reports it: that takes minutes.
pytestmark = pytest.mark.timeout(600 + 2 * EXAMPLES)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


def test_usage_equals_what_was_granted_on_sqlite() -> None:
    run_machine(migrated_temporary_file, EXAMPLES, concurrent_cleanup=True)


def test_usage_equals_what_was_granted_on_postgresql(new_postgres: NewDatabase) -> None:
    run_machine(new_postgres, EXAMPLES // 4, concurrent_cleanup=False)
