from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.waiting import lane_name
from worker.broker.lanes import (
    MAX_DEPTH,
    MAX_LANES,
    MIN_DEPTH,
    MIN_STARVED_FOR,
    SHARED_LANES,
    STARVED_AFTER,
    BulkWatch,
    Depth,
    VirtualTimes,
    lane_tenant,
    plan_moves,
)

LANES = st.lists(st.sampled_from("abcde"), max_size=60)
WAITING = st.sets(st.sampled_from("abcde"))
LIMIT = st.integers(0, 20)


@given(LANES, WAITING, LIMIT)
def test_at_most_the_limit_of_a_lane_stays_and_nothing_of_one_that_waits(
    lanes: list[str], waiting: set[str], limit: int
) -> None:
    moved = {move.number for move in plan_moves(lanes, waiting, limit)}
    staying = Counter(lane for number, lane in enumerate(lanes) if number not in moved)
    assert all(count <= limit for count in staying.values())
    assert not staying.keys() & waiting


@given(LANES, WAITING, LIMIT)
def test_a_lane_moves_as_a_whole_and_in_its_order(
    lanes: list[str], waiting: set[str], limit: int
) -> None:
    numbers = defaultdict(list)
    for number, lane in plan_moves(lanes, waiting, limit):
        numbers[lane].append(number)
    for lane, moved in numbers.items():
        assert moved == [number for number, name in enumerate(lanes) if name == lane]


@given(LANES, LIMIT)
def test_a_lane_within_the_limit_stays(lanes: list[str], limit: int) -> None:
    moved = {move.lane for move in plan_moves(lanes, set(), limit)}
    assert moved == {lane for lane, count in Counter(lanes).items() if count > limit}


def test_made_up_names_create_a_bounded_number_of_lanes() -> None:
    waiting: set[str] = set()
    for start in range(0, 10_000, 100):
        moves = plan_moves([f"t{number}" for number in range(start, start + 100)], waiting, 0)
        waiting |= {move.lane for move in moves}
        assert len(moves) == 100
    assert len(waiting) == MAX_LANES + SHARED_LANES


def test_a_tenant_that_waits_keeps_its_lane_beside_made_up_names() -> None:
    waiting = {f"t{number}" for number in range(MAX_LANES)} | {"acme"}
    assert [move.lane for move in plan_moves(["x", "acme"], waiting, 0)][1] == "acme"


def test_small_requests_and_bulk_of_a_tenant_have_two_lanes() -> None:
    lanes = lane_name("acme", is_bulk=False), lane_name("acme", is_bulk=True)
    assert len(set(lanes)) == 2
    assert {lane_tenant(lane) for lane in lanes} == {"acme"}


def serve(times: VirtualTimes, lengths: dict[str, int]) -> str:
    """Serve the tenant whose turn it is, with the length of its frames."""
    tenant = min(lengths, key=times.time)
    times.charge(tenant, lengths[tenant])
    return tenant


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 1_000_000), min_size=2))
def test_tenants_get_the_same_share_by_cost(lengths: dict[str, int]) -> None:
    times = VirtualTimes()
    served = Counter(serve(times, lengths) for _ in range(500))
    costs = [served[tenant] * (length + 16_384) for tenant, length in lengths.items()]
    assert max(costs) - min(costs) <= max(lengths.values()) + 16_384


def test_a_tenant_that_arrives_later_gets_a_turn_at_once_but_nothing_for_the_past() -> None:
    times = VirtualTimes()
    for _ in range(100):
        serve(times, {"flood": 1_000})
    turns = [serve(times, {"flood": 1_000, "calm": 1_000}) for _ in range(10)]
    assert "calm" in turns[:2]
    assert Counter(turns) == {"flood": 5, "calm": 5}


def test_a_tenant_gains_nothing_from_leaving_between_turns() -> None:
    times = VirtualTimes()
    for _ in range(50):
        times.charge("large", 1_000_000)
        serve(times, {"small": 1_000})
    assert times.time("small") < times.time("large")


def test_past_tenants_are_forgotten() -> None:
    times = VirtualTimes()
    for number in range(10_000):
        times.charge(f"t{number}", 10)
    assert len(times._ends) <= MAX_LANES + SHARED_LANES + 1


def test_the_depth_grows_while_workers_find_nothing_and_shrinks_while_frames_are_left() -> None:
    depth = Depth()
    for _ in range(20):
        depth.adapt(0)
    assert depth.frames == MAX_DEPTH
    for _ in range(500):
        depth.adapt(depth.frames)
    assert depth.frames == MIN_DEPTH
    depth.adapt(1)
    assert depth.frames == MIN_DEPTH


def test_a_bulk_queue_that_workers_read_is_not_starved() -> None:
    watch = BulkWatch()
    assert not any(watch.observe(7, 8, now / 10) for now in range(100))
    assert not watch.is_starved(10)


def test_a_bulk_queue_that_nobody_reads_is_starved_for_a_while_and_then_tried_again() -> None:
    watch = BulkWatch()
    assert not watch.observe(0, 8, 1.0)
    assert not watch.observe(8, 8, 1.0 + STARVED_AFTER)
    found_at = 1.1 + STARVED_AFTER
    assert watch.observe(8, 8, found_at)
    assert watch.is_starved(found_at + 0.9 * MIN_STARVED_FOR)
    assert not watch.is_starved(found_at + MIN_STARVED_FOR)


def test_the_time_until_the_next_try_doubles_until_workers_read_bulk_again() -> None:
    watch = BulkWatch()
    for now in (1.0, 2.0, 3.0, 4.0):
        watch.observe(8, 8, now)
    assert watch.is_starved(4.0 + 1.9 * MIN_STARVED_FOR)
    for now in (10.0, 10.1):
        watch.observe(7, 8, now)
    for now in (11.0, 12.0):
        watch.observe(8, 8, now)
    assert not watch.is_starved(12.0 + MIN_STARVED_FOR)


def test_what_was_seen_before_nothing_waited_does_not_count() -> None:
    watch = BulkWatch()
    watch.observe(8, 8, 1.0)
    watch.reset()
    assert not watch.observe(8, 8, 100.0)
