"""What the story of a grant says of its uses."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from models import Settlement, Use
from valetkey.units import format_size
from worker.shared.grant_items import StorySubject

MAX_USES = 100
"""A link may be opened a million times: only so many uses are read, the newest ones."""

Values = Mapping[str, Any]
_LEFT_OUT = {"tenant", "batch_number", "item_number", "fingerprint", "group_id"}
_USES = select(*(column for column in Use.__table__.columns if column.name not in _LEFT_OUT))
_SETTLEMENT = select(
    *(Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes),
    Settlement.settled_at,
)
_SOURCES = {
    "probe": "seen by a probe",
    "event": "reported by an event",
    "log": "from an access log",
}


def read_story(connection: Connection, subject: StorySubject) -> Values:
    """Read the newest uses of a grant, and the settlement of its chunk. A batch has neither."""
    batch_number, item = subject.batch_number, subject.item_number
    if item is None:
        return {}
    is_of_grant = Use.batch_number == batch_number, Use.item_number == item
    newest = _USES.where(*is_of_grant).order_by(Use.occurred_at.desc(), Use.fingerprint.desc())
    uses = connection.execute(newest.limit(MAX_USES)).mappings()
    settlement = (
        connection.execute(
            _SETTLEMENT.where(Settlement.batch_number == batch_number).where(
                Settlement.chunk_number == subject.chunk_number
            )
        )
        .mappings()
        .first()
    )
    return {
        "uses": [dict(use) for use in uses][::-1],
        "number_of_uses": connection.scalar(select(func.count()).where(*is_of_grant)) or 0,
        "settlement": None if settlement is None else dict(settlement),
    }


def story_lines(story: Values) -> Iterator[tuple[str, str | None]]:
    """Yield a line for each use of a grant, and one for the settlement of its slot."""
    if "uses" not in story:
        return
    number, shown = story["number_of_uses"], len(story["uses"])
    if number > shown:
        yield "uses", f"{number:,}: the newest {shown:,} follow, and {number - shown:,} are older"
    for use in story["uses"]:
        yield "use", _describe_use(use)
    if story["settlement"]:
        yield "settled", _describe_settlement(story["settlement"])


def _describe_use(use: Values) -> str:
    verdict = use["verdict"].replace("_", " ")
    problem = f" ({use['problem']})" if use["problem"] else ""
    size = None if use["size"] is None else format_size(use["size"])
    parts = [
        f"{use['occurred_at']} {use['event']}",
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


def _describe_settlement(settlement: Values) -> str:
    used, returned = (format_size(settlement[name]) for name in ("used_bytes", "returned_bytes"))
    ranges = settlement["unused"]
    numbers = "item number" if ranges.isdecimal() else "item numbers"
    unused = f"unused: {numbers} {ranges}" if ranges else "no unused items"
    amounts = f"{used} used, {returned} given back, {unused}"
    return f"{settlement['settled_at']}, with its chunk: {amounts}"
