"""Reads a link or form that somebody pasted, judges it by the log, and names the ways to end it."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from worker.core.annotations import ItemTexts
from worker.core.issued_grants import GrantName
from worker.core.revocation_targets import RecordedRevocation
from worker.core.sigv4 import signature_digest

Pairs = dict[str, set[str]]
"""The values of each name, in lower case."""

_NAMES = "|".join(
    (
        *("x-grant-id", "x-amz-meta-grant-id", "x-amz-signature", "x-amz-date", "x-amz-expires"),
        *("x-amz-credential", "uploadid", "partnumber"),
    )
)
# No pattern may go back: a pasted text is anybody's, and its length squared would be minutes.
_PAIR = re.compile(
    rf"""(?<![\w-])({_NAMES})(?:["']?[ \t]*+[:=][ \t]*+["']?)([^\s"'<>&,;()\\]++)""",
    re.IGNORECASE,
)
_KEY_LINE = re.compile(r"""(?im)^[ \t"']*+key[ \t]*+[:=][ \t]*+([^\r\n]++)""")
# A link may be a parameter of another one.
_URL = re.compile(r"""https?://(?:(?!https?://)[^\s"'<>`\\])+""", re.IGNORECASE)
_SIGNATURE = re.compile(r"x-amz-signature[\"']?\s*+[:=]\s*+[\"']?[0-9a-f]{64}", re.IGNORECASE)
_QUOTED_LINE = re.compile(r"(?<![ \t])[ \t]*+\r?\n[>| \t]*+")
# Only these: `&reg` of a link's `&region=` is an entity, too.
_ENTITY = re.compile("&(?:amp|quot|lt|gt|#34|#38|#39|#x26);")
_MAX_DECODINGS = 2
# Names that only JSON has: a grant as the client prints it, and the metadata in a HEAD response.
_JSON_NAMES = {"id": "json-id", "grant-id": "x-amz-meta-grant-id", "key": "key", "method": "method"}
PATH = "path"
HOST = "host"


def read_pairs(text: str) -> Pairs:
    """Return what the text says of a grant. Raises ValueError for JSON that is too deep."""
    text = _QUOTED_LINE.sub("\n", text.strip().lstrip("\ufeff"))
    values = _load_json(text)
    pairs: Pairs = defaultdict(set)
    if values is not None:
        strings = list(_walk(values))
        for name, value in strings:
            if name in _JSON_NAMES or name.startswith("x-"):
                pairs[_JSON_NAMES.get(name, name)].add(value)
        text = "\n".join(value for _, value in strings if "://" in value)
    elif "<input" in text.lower():
        form = _Form()
        form.feed(text)
        return form.pairs
    _scan(_best_variant(text), pairs)
    return pairs


def _load_json(text: str) -> Any:
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
    except ValueError:
        return None  # such as several lines of JSON, which are read as text


def _walk(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the strings of a JSON value with their names in lower case."""
    if depth > 20:  # noqa: PLR2004 - far more than a grant or a response of storage has
        raise ValueError("too deep")
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _walk(each, key.lower(), depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _walk(each, name, depth + 1)
    elif isinstance(value, str):
        yield name, value


class _Form(HTMLParser):
    """The fields of an HTML form."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: Pairs = defaultdict(set)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "input" and values.get("name"):
            self.pairs[values["name"].lower()].add(values.get("value", ""))


def _best_variant(text: str) -> str:
    """Return the text, or if that has no signature, without line breaks or percent-encoding."""
    text = _ENTITY.sub(lambda entity: unescape(entity[0]), text)
    variants = [text, _join_lines(text)]
    for _ in range(_MAX_DECODINGS):
        variants.append(unquote(variants[-1]))
    links = (each for each in variants if any(map(_is_signed_link, _URL.findall(each))))
    signed = (each for each in variants if _SIGNATURE.search(each))
    named = (each for each in variants if _PAIR.search(each))
    return next(links, None) or next(signed, None) or next(named, text)


def _is_signed_link(url: str) -> bool:
    return "?" in url and _SIGNATURE.search(url) is not None


def _join_lines(text: str) -> str:
    """Join the lines of a URL that was wrapped, up to the first line with a space."""
    start = re.search(r"https?://", text, re.IGNORECASE)
    if start is None:
        return text
    lines = text[start.start() :].split("\n")
    end = next((n for n, line in enumerate(lines) if not line or " " in line), len(lines))
    return "".join(lines[:end]) or lines[0]


def _scan(text: str, pairs: Pairs) -> None:
    for name, value in _PAIR.findall(text):
        pairs[name.lower()].add(unquote(value).rstrip(".,;:!?)>]}*`"))
    for value in _KEY_LINE.findall(text):
        pairs["key"].add(value.rstrip(" \t\"'"))
    for url in _URL.findall(text):
        parts = urlsplit(url)
        pairs["url"].add(parts.netloc.lower())
        if _is_signed_link(url):
            pairs[HOST].add(parts.netloc.lower())
            pairs[PATH].add(unquote(parts.path).removeprefix("/"))


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
    beside them, as in a form.
    """

    name: GrantName | None
    digests: frozenset[bytes] = field(repr=False)
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
    names = _full_ids(map(str.strip, values)) | _full_ids(pairs.get("json-id", ()))
    signatures = {value.lower() for value in pairs.get("x-amz-signature", ())}
    if not (names or values or signatures or pairs.get("url")):
        names = _bare_ids(text)
        if not names:
            raise Unreadable("this is no link, form, metadata or grant id")
    if len(names) > 1:
        raise Unreadable("this names several grants: give one of them")
    dates = frozenset(map(_moment, pairs.get("x-amz-date", ())))
    return PastedGrant(
        name=next(iter(names), None),
        digests=frozenset(map(signature_digest, signatures)),
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


def _full_ids(texts: Iterable[str]) -> set[GrantName]:
    matches = map(_GRANT_ID.fullmatch, texts)
    return {GrantName(match[1].lower(), int(match[2])) for match in matches if match}


def _bare_ids(text: str) -> set[GrantName]:
    matches = _BARE_ID.finditer(text)
    return {GrantName(match[2].lower(), int(match[3]), match[1]) for match in matches}


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


Verdict = Literal["genuine", "altered", "forged", "unproven", "named"]

_METHODS: dict[str, set[str]] = {
    "download": {"GET", "HEAD"},
    "upload": {"POST", "PUT"},
    "put": {"PUT"},
    "multipart": {"POST", "DELETE"},
    "parts": {"PUT"},
}
_ARN = "arn:"


@dataclass(frozen=True, slots=True)
class Signing:
    """One signing of a grant: at its issue, or again later with other credentials."""

    digest: bytes | None = field(repr=False)
    access_key: str | None
    signed_again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedGrant(ItemTexts):
    """A grant of the audit log, with its bucket profile of today and the state of its upload.

    real_buckets are those that the profile has had; provider is None if it was removed. signings
    has the first one first. revocations are those that cover it, the oldest first.
    """

    tenant: str
    grant: str
    bucket: str
    key: str
    kind: str
    requested_by: str
    signed_by: str | None
    issued_at: datetime
    expires_in: int
    limited_by: str
    code: str | None
    signings: tuple[Signing, ...]
    is_plain: bool
    real_buckets: frozenset[str]
    provider: str | None
    has_role: bool
    upload: str | None
    cancelled_at: datetime | None
    revocations: tuple[RecordedRevocation, ...] = ()

    @property
    def expires_at(self) -> datetime:
        """The moment from which storage refuses the grant."""
        return self.issued_at + timedelta(seconds=self.expires_in)


def matching_signing(pasted: PastedGrant, grant: AuditedGrant) -> Signing | None:
    """Return the signing that gave the pasted signature, or None."""
    return next((each for each in grant.signings if each.digest in pasted.digests), None)


def judge(pasted: PastedGrant, grant: AuditedGrant) -> tuple[Verdict, list[str]]:
    """Return the verdict, and the names of the parts that differ from the audit log."""
    signing = matching_signing(pasted, grant)
    if not pasted.digests:
        return "named", []
    if signing is not None:
        differences = list(_differences(pasted, grant, signing))
        return "altered" if differences else "genuine", differences
    # The link that aborts an upload is signed with the one that completes it, and has no digest.
    is_abort = grant.kind == "multipart" and pasted.has_upload_id and grant.code is None
    return "unproven" if is_abort else "forged", []


def _differences(pasted: PastedGrant, grant: AuditedGrant, signing: Signing) -> Iterator[str]:
    if pasted.name is None and not grant.is_plain:
        yield "the grant id is missing"
    if _differ(pasted.keys, grant.key) or not all(_is_path(p, grant) for p in pasted.paths):
        yield "key or bucket"
    elif not all(_is_host(host, grant, pasted.paths) for host in pasted.hosts):
        yield "bucket"
    if _differ(pasted.dates, grant.issued_at):
        yield "time of issue"
    if not all(_is_lifetime(text, grant, signing) for text in pasted.lifetimes):
        yield "expiry"
    if _differ(pasted.access_keys, signing.access_key):
        yield "access key"
    if not pasted.methods <= _METHODS.get(grant.kind, pasted.methods):
        yield "method"


def _differ(values: Collection[Any], expected: Any) -> bool:
    return bool(values) and set(values) != {expected}


def _is_path(path: str, grant: AuditedGrant) -> bool:
    if path == grant.key:
        return True
    bucket, _, key = path.partition("/")
    return key == grant.key and bucket in (grant.real_buckets or {bucket})


def _is_host(host: str, grant: AuditedGrant, paths: Collection[str]) -> bool:
    buckets = grant.real_buckets
    if not buckets or _is_access_point(grant) or grant.key not in paths:
        return True
    return host.startswith(tuple(f"{name}." for name in buckets))


def _is_lifetime(text: str, grant: AuditedGrant, signing: Signing) -> bool:
    if not (text.isascii() and text.isdecimal()):
        return False
    if signing.signed_again_at is not None:  # other credentials may have ended earlier
        return 0 < int(text) <= grant.expires_in
    return int(text) == grant.expires_in


_MULTIPART = {"multipart", "parts"}
_ENDED = {"aborted", "closed"}
_SESSION_PREFIX = "ASIA"  # AWS: reference_identifiers.html, "Understanding unique ID prefixes"


def is_alive(grant: AuditedGrant, now: datetime) -> bool:
    """Return whether storage still accepts the grant, as far as the audit log knows.

    The log does not know whether the revocation of a grant was successful.
    """
    has_upload = grant.kind != "multipart" or grant.upload not in _ENDED
    return grant.code is None and grant.expires_at > now and has_upload


def ways_to_end(grant: AuditedGrant, signing: Signing) -> Iterator[str]:
    """Yield what an operator can do to end a grant that is alive."""
    if grant.kind in _MULTIPART:
        yield (
            "abort the upload: `valetkey cancel` of the multipart batch with --abort-uploads, or"
            " AbortMultipartUpload; no part and no completion is accepted then"
        )
    elif grant.kind == "download":
        yield "delete or move the object: ends every link to it"
    if grant.provider in {"aws", "other"} and not _is_access_point(grant):
        yield (
            f"`python -m worker revoke --grant {grant.tenant}/{grant.grant}`: denies this key in"
            " the bucket policy, which ends every link to it, and signs this grant no more"
        )
    yield from _ways_of_credentials(grant, signing)
    if grant.kind not in _MULTIPART:
        yield "`valetkey cancel` does not end it: only what is not issued yet is refused then"


def _is_access_point(grant: AuditedGrant) -> bool:
    return any(name.startswith(_ARN) for name in grant.real_buckets)


def _ways_of_credentials(grant: AuditedGrant, signing: Signing) -> Iterator[str]:
    key = f"access key {signing.access_key}" if signing.access_key else "access key that signed"
    if grant.provider is None:
        yield f"the bucket profile was removed: deactivate the {key}, or end its role's sessions"
    elif grant.has_role:
        name = grant.tenant.partition("~")[0]
        yield (
            f"deny the tenant's sessions in the bucket policy (aws:userid like *:valetkey-{name}):"
            " ends every link of the tenant to the bucket, new ones too"
        )
        yield (
            "deny the role's sessions from before now (aws:TokenIssueTime), then restart the"
            " workers: ends every link of the role"
        )
    elif grant.provider == "aws" and (signing.access_key or "").startswith(_SESSION_PREFIX):
        yield (
            f"revoke the sessions of the role to which {key} belongs, then restart the workers:"
            " ends every link that they signed"
        )
    else:
        yield f"deactivate or delete the {key}: ends every link that it signed"
