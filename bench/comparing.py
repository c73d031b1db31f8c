"""Comparing two things in one run, in turns, so that a busy machine slows both."""

from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter
from typing import NamedTuple, TypeVar

Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")


class Compared(NamedTuple):
    """Medians over the rounds: both sides, and theirs as a multiple of ours."""

    ours: float
    theirs: float
    ratio: float


def compared(rounds: Iterable[tuple[float, float]]) -> Compared:
    """Compare what each round measured of ours and of theirs.

    The ratio is the median of the rounds' own ratios: what slows one round slows both its sides.
    """
    ratios = [(ours, theirs, theirs / ours) for ours, theirs in rounds]
    return Compared(*map(median, zip(*ratios, strict=True)))


def in_turns(
    ours: Callable[[], Ours], theirs: Callable[[], Theirs], rounds: int
) -> list[tuple[Ours, Theirs]]:
    """Measure A B A B, and give what both said each round."""
    return [(ours(), theirs()) for _ in range(rounds)]


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    start = perf_counter()
    action()
    return perf_counter() - start
