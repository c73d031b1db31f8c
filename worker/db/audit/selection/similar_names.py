"""Suggestions for misspelled names."""

from collections.abc import Iterable
from difflib import get_close_matches


def similar_name(name: str, known_names: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a misspelled one, None if none is."""
    return next(iter(get_close_matches(name, sorted(set(known_names)), n=1)), None)


def did_you_mean(name: str, known_names: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about an unknown name, which suggests the most similar one.

    otherwise is the hint if no name is similar. Without a hint, the end is empty.
    """
    similar = similar_name(name, known_names)
    hint = otherwise if similar is None else f"did you mean {similar!r}?"
    return f": {hint}" if hint else ""
