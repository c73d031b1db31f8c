"""Lists by state equal those of a plain loop over all rows and uses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.audit.conftest import WithLog, identify, read_pages, slow_list
from tests.support.audit_model.filters import filters
from tests.support.audit_model.logs import GeneratedLog, generated_logs, no_shrinking
from tests.support.audit_model.uses import NOWS
from valetkey.wire.terms import MAX_EXPIRES_IN
from worker.audit import index_scans
from worker.audit.audit_rows import stream_grants
from worker.audit.grant_filters import GrantFilter, item_conditions
from worker.audit.grant_states import grant_state
from worker.audit.state_conditions import LONGEST_VALIDITY, STATES
from worker.audit.state_facts import read_state_facts

pytestmark = pytest.mark.slow

STATE_SETS = st.lists(st.sampled_from(STATES), min_size=1, max_size=3, unique=True).map(tuple)


@pytest.mark.parametrize("block", [1, 256])
def test_lists_by_state_equal_those_of_a_loop(
    with_log: WithLog, examples: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_scans, "_RANGES_PER_READ", block)
    # With the blocks of one, it scans after three.
    monkeypatch.setattr(index_scans, "_MAX_READ", 3 if block == 1 else 2_000)

    @settings(no_shrinking, max_examples=examples)
    @given(generated_logs().map(GeneratedLog.in_order), filters(), STATE_SETS, NOWS)
    def compare(
        log: GeneratedLog, other: GrantFilter, states: tuple[str, ...], now: object
    ) -> None:
        grant_filter = GrantFilter(
            tenant=other.tenant,
            decisions=other.decisions,
            object_key=other.object_key,
            since=other.since,
            kind=other.kind,
            states=states,
            states_at=now,  # type: ignore[arg-type]
        )
        with with_log(log) as connection:
            streamed = identify(stream_grants(connection, grant_filter))
            pages = read_pages(connection, grant_filter, 2)
        assert streamed == pages == slow_list(log, grant_filter)

    compare()


def test_the_facts_of_each_grant_give_the_state_of_a_loop(with_log: WithLog, examples: int) -> None:
    @settings(no_shrinking, max_examples=examples)
    @given(generated_logs(), NOWS)
    def compare(log: GeneratedLog, now: object) -> None:
        with with_log(log) as connection:
            found = {
                (batch.number, item): grant_state(facts, now)  # type: ignore[arg-type]
                for batch in log.batches
                for item, facts in read_state_facts(connection, batch.number, range(9)).items()
            }
        expected = {
            (row.batch_number, row.item_number): row.state(now)  # type: ignore[arg-type]
            for row in log.rows()
            if row.code is None
        }
        assert found == expected

    compare()


def test_the_longest_validity_is_that_of_requests() -> None:
    assert LONGEST_VALIDITY.total_seconds() == MAX_EXPIRES_IN


def test_a_filter_by_state_needs_their_time(with_log: WithLog) -> None:
    with (
        with_log(GeneratedLog([])) as connection,
        pytest.raises(ValueError, match="the time of the states"),
    ):
        list(item_conditions(connection, GrantFilter(states=("used",))))
