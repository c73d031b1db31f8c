"""Runs random steps on upload slots: states and refunds are those of a simple model."""

import os
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.servers.databases import NewDatabase, migrated_temporary_file
from tests.support.uses.checked_slots import KEYS, CheckedSlots
from tests.support.uses.slots_model import MAX_SIZE
from worker.core.uses.settlement import GRACE
from worker.db.engine import create_database_engine

EXAMPLES = int(os.environ.get("VALETKEY_TEST_EXAMPLES", "40"))
MAX_STATEMENTS = 40  # more than settling takes in most examples

sizes = st.integers(0, MAX_SIZE + 20) | st.just(MAX_SIZE)
keys = st.sampled_from(KEYS)
waits = st.sampled_from([timedelta(minutes=1), timedelta(minutes=5), GRACE, timedelta(hours=7)])


class SlotsMachine(RuleBasedStateMachine):
    """Issues, uses, tells, asks, waits, cancels and settles, in any order."""

    grants: Bundle[str] = Bundle("grants")

    def database(self) -> AbstractContextManager[str]:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        engine = create_database_engine(self._stack.enter_context(self.database()))
        self._stack.callback(engine.dispose)
        self.slots = CheckedSlots(engine)

    def teardown(self) -> None:
        self._stack.close()

    @rule(
        target=grants,
        kind=st.sampled_from(["upload", "put"]),
        keys=st.lists(keys, min_size=1, max_size=3),
        is_whole=st.booleans(),
    )
    def issue(self, kind: str, keys: list[str], *, is_whole: bool) -> str:
        return multiple(*self.slots.issue(kind, keys, is_whole=is_whole))  # type: ignore[return-value] # several values of the bundle

    @rule(grant=grants)
    def cancel(self, grant: str) -> None:
        self.slots.cancel(grant)

    @rule(grant=grants, size=sizes)
    def store(self, grant: str, size: int) -> None:
        self.slots.store(grant, size)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.slots.delete(key)

    @precondition(lambda self: self.slots.history)
    @rule(number=st.integers(0, 1_000))
    def tell(self, number: int) -> None:
        self.slots.tell(number)

    @rule(grant=grants)
    def probe(self, grant: str) -> None:
        self.slots.probe(grant)

    @rule(duration=waits, has_cleanup=st.booleans())
    def wait(self, duration: timedelta, *, has_cleanup: bool) -> None:
        self.slots.wait(duration)
        if has_cleanup:
            self.slots.clean_up()

    @rule(killed_at=st.none() | st.integers(1, MAX_STATEMENTS))
    def settle(self, killed_at: int | None) -> None:
        self.slots.settle(killed_at)

    @rule(grant=grants, size=sizes | st.none(), is_told=st.booleans())
    def end_and_settle(self, grant: str, size: int | None, *, is_told: bool) -> None:
        if size is not None:
            self.slots.store(grant, size)
            if is_told:
                self.slots.tell(-1)
        self.slots.wait(timedelta(hours=7))
        self.slots.clean_up()
        self.slots.settle()

    @rule(is_silent=st.booleans())
    def silence_storage(self, *, is_silent: bool) -> None:
        self.slots.bucket.is_silent = is_silent

    @rule(refund_unused=st.booleans())
    def configure_refunds(self, *, refund_unused: bool) -> None:
        self.slots.model.refund_unused = refund_unused
        self.slots.apply_config()

    @invariant()
    def check(self) -> None:
        self.slots.check()


def run_machine(new_database: NewDatabase, examples: int) -> None:
    class Machine(SlotsMachine):
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


def test_states_and_refunds_are_those_of_the_model_on_sqlite() -> None:
    run_machine(migrated_temporary_file, EXAMPLES)


def test_states_and_refunds_are_those_of_the_model_on_postgresql(new_postgres: NewDatabase) -> None:
    run_machine(new_postgres, EXAMPLES // 4)
