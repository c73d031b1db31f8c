"""The turns of owners whose work waits, and their bounds."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.turns import TurnKey, TurnLimits, Turns

LIMITS = TurnLimits(total=8, per_owner=4, per_key=2, suspects=3)
A1, A2, A3 = (TurnKey("a", name) for name in "123")
B, C = TurnKey("b", "1"), TurnKey("c", "1")

keys = st.builds(TurnKey, st.sampled_from("abcde"), st.sampled_from("123"))


def waiting(*keys: TurnKey) -> dict[TurnKey, int]:
    return dict.fromkeys(keys, 100)


def test_a_new_owner_comes_before_those_that_were_served() -> None:
    turns = Turns(LIMITS._replace(total=3))
    turns.start(A1)
    turns.start(C)
    turns.end(A1)
    turns.end(C)
    turns.start(C)
    turns.start(C)
    assert turns.allot(waiting(A1, A2, B)) == {B: 1}


def test_an_owner_with_many_keys_gets_no_more_turns_than_one_with_a_single_key() -> None:
    turns = Turns(LIMITS._replace(total=1))
    many = [TurnKey("a", str(number)) for number in range(100)]
    served: Counter[str] = Counter()
    for _ in range(20):
        (key,) = turns.allot(waiting(*many, B))
        served[key.owner] += 1
        turns.start(key)
        turns.end(key)
    assert served == {"a": 10, "b": 10}


def test_the_keys_of_an_owner_are_served_in_turns() -> None:
    turns = Turns(LIMITS._replace(total=1))
    served = []
    for _ in range(6):
        (key,) = turns.allot(waiting(A1, A2, A3))
        served.append(key)
        turns.start(key)
        turns.end(key)
    assert served == [A1, A2, A3] * 2


@given(
    st.lists(st.tuples(st.dictionaries(keys, st.integers(0, 9)), st.sets(keys), st.integers(0, 9)))
)
def test_no_bound_is_exceeded_and_no_place_stays_free_that_an_owner_could_use(
    steps: list[tuple[dict[TurnKey, int], set[TurnKey], int]],
) -> None:
    turns, in_flight = Turns(LIMITS), Counter[TurnKey]()
    for wanted, suspects, ended in steps:
        shares = turns.allot(wanted, suspects)
        for key in Counter(shares).elements():
            turns.start(key)
        suspects_before = sum(in_flight[key] for key in suspects)
        in_flight += Counter(shares)
        owners = Counter(key.owner for key in in_flight.elements())
        suspect_count = sum(in_flight[key] for key in suspects)
        assert in_flight.total() <= LIMITS.total
        assert all(count <= LIMITS.per_owner for count in owners.values())
        assert all(count <= LIMITS.per_key for count in in_flight.values())
        assert all(share <= wanted[key] for key, share in shares.items())
        assert suspect_count <= max(LIMITS.suspects, suspects_before)
        if in_flight.total() < LIMITS.total:
            assert all(
                owners[key.owner] == LIMITS.per_owner
                or in_flight[key] == LIMITS.per_key
                or shares.get(key, 0) == count
                or (key in suspects and suspect_count >= LIMITS.suspects)
                for key, count in wanted.items()
            )
        for key in list(in_flight.elements())[:ended]:
            turns.end(key)
            in_flight -= Counter([key])
