"""Waiting for a manifest or a stored object: when to ask again, and what each state means."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey import Grant, NoAnswer, NotStored, UseState, UseStates
from valetkey.handles import Subject, read_grant_id, read_subject
from valetkey.waits import ManifestWait, StoredWait
from valetkey.wire.replies import BatchState, ManifestState

BATCH = "0199a000-0000-7000-8000-000000000000"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FINAL = ["unused", "late", "mismatched", "overwritten", "refused"]


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def states(state: str, kind: str = "upload", **fields: Any) -> UseStates:
    item = UseState(item=0, state=state, **fields)
    return UseStates(batch=BATCH, kind=kind, bucket="demo", total=1, items=[item])


PENDING = BatchState(
    batch=BATCH,
    kind="download",
    bucket="demo",
    total=1,
    chunk_size=1,
    decided=1,
    issued=1,
    refused=0,
    manifest=ManifestState(key="acme/a.jsonl.gz", state="pending"),
)


def pauses_until_over(wait: Any, reply: Any, clock: Clock) -> list[float]:
    """Return the pauses of a wait for what is never there."""
    pauses = list[float]()
    for _ in range(10_000):
        assert wait.limit >= 1
        try:
            pause = wait.receive(reply)
        except (NotStored, NoAnswer):
            return pauses
        assert isinstance(pause, float)
        pauses.append(pause)
        clock.seconds += pause
    raise AssertionError("the wait did not end")


@given(timeout=st.floats(0.01, 10_000), is_for_manifest=st.booleans())
def test_the_pauses_grow_and_end_with_the_time(timeout: float, *, is_for_manifest: bool) -> None:
    clock = Clock()
    if is_for_manifest:
        *growing, last = pauses_until_over(ManifestWait(timeout, clock), PENDING, clock)
    else:
        stored_wait = StoredWait(f"{BATCH}.0", timeout, clock)
        *growing, last = pauses_until_over(stored_wait, states("open", key="acme/a"), clock)
    assert sum(growing) + last == pytest.approx(timeout)
    assert growing == sorted(growing)
    assert all(0 < pause <= 5 for pause in (*growing, last))


def test_a_manifest_that_is_not_written_in_time_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="not written within 0 s"):
        ManifestWait(0, Clock()).receive(PENDING)


def test_a_query_for_a_manifest_waits_no_longer_than_the_timeout() -> None:
    clock, limits = Clock(), list[float]()
    wait = ManifestWait(60, clock)
    for seconds in (100, 150, 159.5):
        clock.seconds = seconds
        limits.append(wait.limit)
    assert limits == [30, 10, 1]


@pytest.mark.parametrize("state", FINAL)
def test_a_state_that_does_not_change_any_more_ends_the_wait(state: str) -> None:
    with pytest.raises(NotStored) as error:
        StoredWait(f"{BATCH}.0", 10, Clock()).receive(states(state, problem="size: too large"))
    assert error.value.use.state == state
    assert str(error.value).endswith(": size: too large")


@pytest.mark.parametrize("state", ["open", "undecided", "unknown", "revoked"])
def test_any_other_state_is_waited_for(state: str) -> None:
    assert StoredWait(f"{BATCH}.0", 10, Clock()).receive(states(state)) == 0.25


def test_a_state_that_only_a_later_service_has_is_named() -> None:
    with pytest.raises(NotStored, match="is 'revoked'"):
        StoredWait(f"{BATCH}.0", 0, Clock()).receive(states("revoked"))


def test_a_subject_is_named_by_its_id_or_its_grant() -> None:
    grant = Grant(
        id=f"{BATCH}.7", key="a", method="GET", url="u", expires_at=NOW, limited_by="request"
    )
    assert read_subject(grant) == read_subject(f"{BATCH}.7") == Subject(BATCH, 7)
    assert read_subject(BATCH) == Subject(BATCH)
    assert read_grant_id(grant) == f"{BATCH}.7"
    with pytest.raises(ValueError, match="is the id of a batch"):
        read_grant_id(BATCH)
    with pytest.raises(ValueError, match=r"subject must be a batch id .* or a grant id"):
        read_subject(f"{BATCH}.x")
