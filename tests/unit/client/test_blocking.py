"""The blocking forms of coroutines, which need no event loop."""

import asyncio

import pytest

from valetkey.blocking import blocking, run


async def double(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return 2 * number


def test_the_blocking_form_has_the_parameters_results_and_errors() -> None:
    assert blocking(double)(number=2) == 4
    with pytest.raises(ValueError, match="-1"):
        blocking(double)(-1)


def test_it_works_in_a_thread_whose_event_loop_is_running() -> None:
    async def call() -> int:
        return blocking(double)(2)

    assert asyncio.run(call()) == 4


def test_a_coroutine_that_waits_for_an_event_loop_is_refused() -> None:
    async def suspend() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="cannot wait for an event loop"):
        run(suspend())
