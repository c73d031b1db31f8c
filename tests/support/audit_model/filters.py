"""Generates filters of the audit log, and applies them to plain rows."""

import string
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from hypothesis import strategies as st

from tests.support.audit_model.logs import CODES, KEYS, MOMENTS, LogRow
from tests.support.audit_model.uses import NOWS
from tests.support.builders.audit_rows import batch_id
from worker.audit.grant_filters import GrantFilter, moment_of_states
from worker.audit.state_conditions import STATES
from worker.rules.annotations import ANNOTATION_FIELDS

TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


PATTERNS = st.sampled_from(
    [
        "ANN@example.ORG",
        "ann@*",
        "*",
        "?1",
        "@ü",
        "@Ü*",
        "(erased)",
        "(ERASED)",
        "nobody",
        "*[e)]",
        "",
    ]
)


@st.composite
def filters(draw: st.DrawFn) -> GrantFilter:
    """Generate a filter with few conditions, so that some rows match."""
    choices: dict[str, st.SearchStrategy[Any]] = {
        "tenant": st.sampled_from(["acme", "globex", "ümlaut", "nobody"]),
        "buckets": st.sampled_from([("demo",), ("other", "demo")]),
        "object_key": st.sampled_from(KEYS),
        "prefix": st.sampled_from(["a/", "A", "=", "ü"]),
        "requester": st.sampled_from(["billing", "BILL*", "line\nbreak", "*e*"]),
        **dict.fromkeys(ANNOTATION_FIELDS, PATTERNS),
        "signed_by": st.sampled_from(["", "key-1"]),
        "decisions": st.sampled_from(
            [("issued",), ("refused",), (CODES[0],), ("issued", CODES[1]), ("issued", "refused")]
        ),
        "states": st.lists(st.sampled_from(STATES), min_size=1, max_size=3).map(tuple),
        "kind": st.sampled_from(["upload", "download"]),
        "since": MOMENTS,
        "until": MOMENTS.map(lambda moment: moment + timedelta(seconds=1)),
        "batch_id": st.integers(1, 5).map(batch_id),
    }
    names = draw(st.lists(st.sampled_from(sorted(choices)), max_size=2, unique=True))
    return GrantFilter(**{name: draw(choices[name]) for name in names}, states_at=draw(NOWS))


def matches(row: LogRow, grant_filter: GrantFilter) -> bool:
    """Tell whether a row matches, condition by condition."""
    batch = row.batch
    wanted = grant_filter
    decisions = {row.code or "issued", "issued" if row.code is None else "refused"}
    return all(
        (
            wanted.tenant in {None, batch.tenant},
            not wanted.buckets or batch.bucket in wanted.buckets,
            wanted.object_key in {None, row.key},
            wanted.prefix is None or row.key.startswith(wanted.prefix),
            _is_text(batch.requested_by, wanted.requester),
            *(_is_text(row.value(name), getattr(wanted, name)) for name in ANNOTATION_FIELDS),
            wanted.signed_by is None or (batch.signed_by or "") == wanted.signed_by,
            not wanted.decisions or bool(decisions & set(wanted.decisions)),
            not wanted.states or state_of(row, wanted) in wanted.states,
            wanted.kind in {None, batch.kind},
            wanted.since is None or row.time >= wanted.since,
            wanted.until is None or row.time < wanted.until,
            wanted.batch_id is None or row.grant.startswith(f"{wanted.batch_id}."),
        )
    )


def _is_text(text: str | None, pattern: str | None) -> bool:
    """Tell whether a text is or matches a pattern, in any case of A to Z."""
    if pattern is None or text is None:
        return pattern is None
    text, pattern = (each.translate(TO_LOWER) for each in (text, pattern))
    return text == pattern or fnmatchcase(text, pattern)


def state_of(row: LogRow, grant_filter: GrantFilter) -> str | None:
    return row.state(moment_of_states(grant_filter))
