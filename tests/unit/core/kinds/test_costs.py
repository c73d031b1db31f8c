from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import (
    download_message,
    grant_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.terms import Parts
from worker.core.kinds.registry import issued_cost, reserved_cost
from worker.core.quotas.cost import NO_COST, Cost


def test_an_upload_costs_one_grant_and_its_max_size() -> None:
    message = ChunkMessage.model_validate(upload_message(max_size=500))
    assert reserved_cost(message.grant, 3) == Cost(3, 0, 1_500)
    assert issued_cost(message.grant, message.items) == Cost(1, 0, 500)


def test_a_put_reserves_its_max_size_and_costs_its_exact_size() -> None:
    message = ChunkMessage.model_validate(put_message({"acme/a": 30, "acme/b": 0}, max_size=500))
    assert reserved_cost(message.grant, 2) == Cost(2, 0, 1_000)
    assert issued_cost(message.grant, message.items) == Cost(2, 0, 30)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20), st.data())
def test_issued_items_never_cost_more_than_was_reserved_for_them(
    sizes: list[int], data: st.DataObject
) -> None:
    sizes_by_key = {f"acme/{number}": size for number, size in enumerate(sizes)}
    for raw in (
        grant_message(list(sizes_by_key)),
        upload_message(list(sizes_by_key)),
        put_message(sizes_by_key, max_size=500),
    ):
        message = ChunkMessage.model_validate(raw)
        issued = [item for item in message.items if data.draw(st.booleans())]
        reserved = reserved_cost(message.grant, len(sizes))
        assert min(reserved.minus(issued_cost(message.grant, issued))) >= 0


def test_parts_cost_nothing_because_their_upload_was_charged() -> None:
    terms = Parts(bucket="demo", expires_in=60, of="batch.0")
    assert reserved_cost(terms, 3) == NO_COST


def test_a_download_costs_one_grant_and_one_download_grant() -> None:
    assert reserved_cost(ChunkMessage.model_validate(download_message()).grant, 3) == Cost(3, 3, 0)
