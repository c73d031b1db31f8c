"""A grant as somebody found it: the parts of a link, form or metadata that can be checked."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worker.core.links.grant_name import GrantName
from worker.core.links.pasted_text import HOST, PATH, Pairs, read_pairs
from worker.core.signing.digests import signature_digest

MAX_PASTED_BYTES = 65_536
_ID = r"([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\.([0-9]{1,9})"
_GRANT_ID = re.compile(_ID, re.ASCII | re.IGNORECASE)
_BARE_ID = re.compile(rf"(?<![\w.-])(?:(?<!~)([\w~-]++)/)?{_ID}(?![\w-])", re.ASCII | re.IGNORECASE)


class Unreadable(ValueError):
    """The text names no grant, or several."""


@dataclass(frozen=True, slots=True)
class PastedGrant:
    """The id and the digests of signatures that a text has, and what else it says of the grant.

    No field has a signature or a URL. paths and hosts are those of signed URLs; keys are named
    beside them, as in a form. id_is_foreign is set if a grant id has another form than ours.
    """

    name: GrantName | None
    digests: frozenset[bytes] = field(repr=False)
    is_url: bool = False
    id_is_foreign: bool = False
    issued_at: datetime | None = None
    dates: frozenset[datetime | None] = frozenset()
    lifetimes: frozenset[str] = frozenset()
    access_keys: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()
    has_upload_id: bool = False


def read_pasted_grant(text: str) -> PastedGrant:
    """Read a link, a form, JSON, metadata or a grant id. Raises Unreadable."""
    try:
        pairs = read_pairs(text)
    except ValueError:  # do not chain it: its text may contain a part of the link
        raise Unreadable("this cannot be read") from None
    values = pairs.get("x-grant-id", set()) | pairs.get("x-amz-meta-grant-id", set())
    ids = {match for value in values if (match := _GRANT_ID.fullmatch(value.strip()))}
    names = {GrantName(match[1].lower(), int(match[2])) for match in ids}
    names |= _json_ids(pairs)
    signatures = {value.lower() for value in pairs.get("x-amz-signature", ())}
    is_url = bool(pairs.get("url"))
    if not names and not values and not signatures and not is_url:
        names = _bare_ids(text)
    if len(names) > 1:
        raise Unreadable("this names several grants: give one of them")
    if not names and not values and not signatures and not is_url:
        raise Unreadable("this is no link, form, metadata or grant id")
    dates = frozenset(map(_moment, pairs.get("x-amz-date", ())))
    return PastedGrant(
        name=next(iter(names), None),
        digests=frozenset(map(signature_digest, signatures)),
        is_url=is_url,
        id_is_foreign=bool(values) and not names,
        issued_at=next(iter(dates)) if len(dates) == 1 else None,
        dates=dates,
        lifetimes=frozenset(pairs.get("x-amz-expires", ())),
        access_keys=frozenset(v.partition("/")[0] for v in pairs.get("x-amz-credential", ())),
        keys=frozenset(pairs.get("key", ())),
        paths=frozenset(pairs.get(PATH, ())),
        hosts=frozenset(pairs.get(HOST, ())),
        methods=frozenset(value.upper() for value in pairs.get("method", ())),
        has_upload_id=bool(pairs.get("uploadid")) and not pairs.get("partnumber"),
    )


def _json_ids(pairs: Pairs) -> set[GrantName]:
    matches = map(_GRANT_ID.fullmatch, pairs.get("json-id", ()))
    return {GrantName(match[1].lower(), int(match[2])) for match in matches if match}


def _bare_ids(text: str) -> set[GrantName]:
    matches = _BARE_ID.finditer(text)
    return {GrantName(match[2].lower(), int(match[3]), match[1]) for match in matches}


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
