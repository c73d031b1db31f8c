"""Whatever comes, in whatever order or at once: what stands charged is what was granted."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
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
from sqlalchemy import make_url

from tests.support.builders.messages import batch_id
from tests.support.crypto import tokens
from tests.support.quota_model import model
from tests.support.quota_model.checked_service import CheckedService
from tests.support.quota_model.model import (
    MAX_BYTES,
    MAX_SECONDS,
    Act,
    CancelStep,
    CleanupStep,
    IssueStep,
    ModelBatch,
    ModelRequest,
)
from tests.support.servers import external
from valetkey.crypto.keys import PrivateKey, generate_key
from valetkey.wire.refusals import Metric, Window
from worker.aws.clients import S3Clients
from worker.commands.database import migrate_to_head
from worker.core.tenants.config import QuotaOverride
from worker.db.engine import create_database_engine

NewDatabase = Callable[[], AbstractContextManager[str]]
EXAMPLES = int(os.environ.get("VALETKEY_TEST_EXAMPLES", "40"))
KEYS = [generate_key(f"acme/key-{number}") for number in range(6)]
MOST = {"grants": 24, "download_grants": 18, "upload_bytes": 18 * MAX_BYTES}

turns = st.integers(0, 5)
metrics = st.sampled_from(model.METRICS)
windows = st.sampled_from(model.WINDOWS)
shares = st.integers(1, 6)
asked = st.integers(1, 2).flatmap(
    lambda size: st.builds(
        ModelBatch,
        st.just(""),
        st.sampled_from(["download", "upload", "put"]),
        st.sampled_from(
            [60, 3_600, MAX_SECONDS, 60, 3_600, MAX_SECONDS, MAX_SECONDS + 1]
        ),  # seconds
        st.just(size),
        st.lists(
            st.builds(ModelRequest, st.integers(0, MAX_BYTES), st.integers(0, 3).map(bool)),
            min_size=size,
            max_size=3 * size,
        ),
    )
)
whats = st.sampled_from(["issue", "issue", "issue", "cancel", "sweep"])
waits = st.sampled_from(  # to borders of windows, to ends of grants, and past all that is kept
    [timedelta(seconds=seconds) for seconds in (1, 59, 60, 1_799, 3_600)]
    + [timedelta(days=days) for days in (1, 1, 2, 31)]
)


class Machine(RuleBasedStateMachine):
    batches: Bundle[str] = Bundle("batches")

    s3: ClassVar[S3Clients]
    one_by_one: ClassVar[bool]

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
        self.good: list[PrivateKey] = []
        self.ended: list[tuple[PrivateKey, str]] = []

    def teardown(self) -> None:
        self._stack.close()

    @initialize(limits=st.dictionaries(st.tuples(metrics, windows), shares, max_size=4))
    def a_tenant_is_declared(self, limits: dict[tuple[Metric, Window], int]) -> None:
        self.key_is_added()
        for (metric, window), share in limits.items():
            self.quota_is_set(metric, window, share)

    @rule(target=batches, batch=asked, turns=st.lists(turns, max_size=3))
    def batch_comes(self, batch: ModelBatch, turns: list[int]) -> str:
        name = self._asked(batch)
        self.chunks_come(name, turns)
        return name

    @rule(target=batches, batch=asked, turn=turns, its=turns, and_what=whats)
    def batch_and_more_of_it_come_at_once(
        self, batch: ModelBatch, turn: int, its: int, and_what: str
    ) -> str:
        name = self._asked(batch)
        self.two_things_come_at_once(name, name, turn, its, "issue", and_what)
        return name

    @rule(batch=batches, turns=st.lists(turns, min_size=1, max_size=3))
    def chunks_come(self, batch: str, turns: list[int]) -> None:
        for turn in turns:
            self.service.come_to(self._issue(batch, turn), self.good[-1])

    @rule(batch=batches)
    def batch_is_cancelled(self, batch: str) -> None:
        self.service.come_to(CancelStep(batch), self.good[-1])

    @rule(batch=batches, other=batches, turn=turns, its=turns, what=whats, and_what=whats)
    def two_things_come_at_once(
        self, batch: str, other: str, turn: int, its: int, what: str, and_what: str
    ) -> None:
        acts = [self._act(what, batch, turn), self._act(and_what, other, its)]
        self.service.come_to_both(acts, self.good[-1])

    @rule(by=waits, is_swept=st.booleans())
    def time_passes(self, by: timedelta, *, is_swept: bool) -> None:
        self.service.clock.time += by
        if is_swept:
            self.service.come_to(CleanupStep(), self.good[-1])

    @rule(metric=metrics, window=windows, share=shares)
    def quota_is_set(self, metric: Metric, window: Window, share: int) -> None:
        self.service.books.limits[metric, window] = MOST[metric] * share // 6
        self.service.declare()

    @precondition(lambda self: self.service.books.limits)
    @rule(turn=turns, share=shares, hours=st.integers(1, 3))
    def quota_is_raised(self, turn: int, share: int, hours: int) -> None:
        metric, window = sorted(self.service.books.limits)[turn % len(self.service.books.limits)]
        until = self.service.clock() + timedelta(hours=hours)
        self.service.lift(QuotaOverride(metric, window, MOST[metric] * share // 6, until))

    def key_is_added(self) -> None:
        key = KEYS[len(self.good) + len(self.ended)]
        self.service.keys |= tokens.tenant_keys(key)
        self.good.append(key)
        self.service.declare()

    @precondition(lambda self: len(self.ended) + 1 < len(KEYS))
    @rule(how=st.sampled_from(["key_revoked", "key_expired", "key_unknown"]))
    def key_is_changed(self, how: str) -> None:
        self.key_is_added()
        key = self.good.pop(0)
        name = key.id.partition("/")[2]
        declared = self.service.keys.pop(name)
        self.ended.append((key, how))
        if how == "key_revoked":
            self.service.keys[name] = replace(declared, revoked=True)
        elif how == "key_expired":
            self.service.keys[name] = replace(declared, expires=self.service.clock())
        self.service.declare()

    @precondition(lambda self: self.ended)
    @rule(batch=batches, turn=turns)
    def chunk_signed_by_an_ended_key_comes(self, batch: str, turn: int) -> None:
        key, how = self.ended[turn % len(self.ended)]
        message = self.service.message(self._issue(batch, turn))
        assert self.service.answer(message, key)["refusal"]["code"] == how

    @invariant()
    def tables_have_what_was_granted(self) -> None:
        self.service.check()

    def _asked(self, batch: ModelBatch) -> str:
        name = batch_id()
        self.service.books.batches[name] = replace(batch, id=name, said={})
        return name

    def _act(self, what: str, batch: str, turn: int) -> Act:
        if what == "issue":
            return self._issue(batch, turn)
        if what == "sweep" and self.one_by_one:  # else it leaves alone what another one works on
            return CleanupStep()
        return CancelStep(batch)

    def _issue(self, batch: str, turn: int) -> IssueStep:
        return IssueStep(batch, turn % len(self.service.books.batches[batch].chunks))


@contextmanager
def copied(template: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=template.parent) as folder:
        yield f"sqlite:///{shutil.copy(template, folder)}"


def run(new_database: NewDatabase, examples: int, *, writers_exclude_each_other: bool) -> None:
    class Here(Machine):
        s3 = S3Clients()
        one_by_one = writers_exclude_each_other

        def database(self) -> AbstractContextManager[str]:
            return new_database()

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


# A failure is made small before it is shown: that takes minutes.
pytestmark = pytest.mark.timeout(600 + 2 * EXAMPLES)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


def test_what_stands_charged_is_what_was_granted_on_sqlite(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    migrate_to_head(f"sqlite:///{template}")
    run(lambda: copied(template), EXAMPLES, writers_exclude_each_other=True)


def test_what_stands_charged_is_what_was_granted_on_postgresql(
    postgres_url: str, postgres_database: str
) -> None:
    migrate_to_head(postgres_database)
    template = str(make_url(postgres_database).database)
    run(
        lambda: external.fresh_database(postgres_url, template),
        EXAMPLES // 4,
        writers_exclude_each_other=False,
    )
