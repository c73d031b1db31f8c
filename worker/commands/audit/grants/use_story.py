"""Describes state, uses and settlement of a grant in words."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from valetkey.units import format_size

Values = Mapping[str, Any]
_STATES = {
    "open": "it can be used, and nothing tells of a use",
    "used": "it was used as granted",
    "unused": "an upload slot that ended, and for which storage has no object",
    "late": "its object was stored after its end",
    "mismatched": "its object is another one than granted",
    "overwritten": "another grant stored an object under its key later",
    "unknown": "it ended, and nothing tells of a use",
}
_VERDICTS = {"as_granted": "as granted"}
_SOURCES = {"probe": "seen by a probe", "event": "told by an event", "log": "from an access log"}


def use_topics(
    values: Values, format_time: Callable[[datetime], str]
) -> Iterator[tuple[str, str | None]]:
    """Yield what became of a grant, in words."""
    state = values["state"]
    if state is not None:
        yield "state", f"{state}: {_STATES[state]}"
    number, shown = values["number_of_uses"], len(values["uses"])
    if number > shown:
        yield "uses", f"{number:,}: the newest {shown:,} follow, and {number - shown:,} are older"
    for use in values["uses"]:
        yield "use", _describe_use(use, format_time)
    if values["settlement"]:
        yield "settled", _describe_settlement(values["settlement"], format_time)


def _describe_use(use: Values, format_time: Callable[[datetime], str]) -> str:
    verdict = _VERDICTS.get(use["verdict"], use["verdict"])
    problem = f" ({use['problem']})" if use["problem"] else ""
    size = None if use["size"] is None else format_size(use["size"])
    parts = [
        f"{format_time(use['occurred_at'])} {use['event']}",
        size,
        None if use["event"] == "deleted" else f"{verdict}{problem}",
        _SOURCES.get(use["source"], use["source"]),
        *(f"{name} {use[name]}" for name in ("etag", "version", "checksum") if use[name]),
        use["content_type"],
        f"from {use['remote_address']}" if use["remote_address"] else None,
        use["user_agent"],
        f"{format_size(use['charged_bytes'])} charged again" if use["charged_bytes"] else None,
    ]
    return ", ".join(part for part in parts if part)


def _describe_settlement(settlement: Values, format_time: Callable[[datetime], str]) -> str:
    used, returned = (format_size(settlement[name]) for name in ("used_bytes", "returned_bytes"))
    unused = _describe_unused(settlement["unused"])
    at = format_time(settlement["settled_at"])
    return f"{at}, with its chunk: {used} used, {returned} given back, {unused}"


def _describe_unused(ranges: str) -> str:
    if not ranges:
        return "no unused items"
    return f"unused: item number{'' if ranges.isdecimal() else 's'} {ranges}"
