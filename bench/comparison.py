"""Comparisons of two actions, alternated in one run so that a busy machine slows both."""

from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter
from typing import NamedTuple, TypeVar

Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")


class Comparison(NamedTuple):
    """Medians over all rounds: ours, theirs, and theirs as a multiple of ours."""

    ours: float
    theirs: float
    ratio: float


def compare(rounds: Iterable[tuple[float, float]]) -> Comparison:
    """Compare the pairs (ours, theirs) that the rounds measured.

    The ratio is the median of the rounds' own ratios, because what slows a round slows both sides.
    """
    ratios = [(ours, theirs, theirs / ours) for ours, theirs in rounds]
    return Comparison(*map(median, zip(*ratios, strict=True)))


def alternate(
    ours: Callable[[], Ours], theirs: Callable[[], Theirs], rounds: int
) -> list[tuple[Ours, Theirs]]:
    """Call both functions in turns, and return each round's pair of results."""
    return [(ours(), theirs()) for _ in range(rounds)]


def elapsed_seconds(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    start = perf_counter()
    action()
    return perf_counter() - start
