"""Comparisons of two actions, alternated in one run so that a busy machine slows both."""

from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter
from typing import NamedTuple, Self, TypeVar

Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")


class Spread(float):
    """The median of what the rounds measured, with the smallest and the largest of it."""

    least: float
    most: float

    def __new__(cls, values: Iterable[float]) -> Self:
        """Take the values of all rounds, of which there is at least one."""
        ordered = sorted(values)
        spread = super().__new__(cls, median(ordered))
        spread.least, spread.most = ordered[0], ordered[-1]
        return spread

    def map(self, convert: Callable[[float], float]) -> Self:
        """Return the spread in another unit, or of the inverse."""
        return type(self)(convert(value) for value in (self.least, float(self), self.most))


class Comparison(NamedTuple):
    """Ours, theirs, and theirs as a multiple of ours, over all rounds."""

    ours: Spread
    theirs: Spread
    ratio: Spread


def compare(rounds: Iterable[tuple[float, float]]) -> Comparison:
    """Compare the pairs (ours, theirs) that the rounds measured.

    The ratio is the median of the rounds' own ratios, because what slows a round slows both sides.
    """
    ratios = [(ours, theirs, theirs / ours) for ours, theirs in rounds]
    return Comparison(*map(Spread, zip(*ratios, strict=True)))


def inverse(value: float) -> float:
    """Return how many times a value is contained in 1: the ratio the other way round."""
    return 1 / value


def milliseconds(seconds: float) -> float:
    """Return a number of seconds in milliseconds."""
    return seconds * 1e3


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
