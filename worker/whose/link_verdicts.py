"""Reads a link or form that somebody pasted, judges it by the log, and names the ways to end it."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import takewhile
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit

from valetkey.signing.sigv4 import signature_digest
from worker.revoke.revocation_targets import RecordedRevocation
from worker.rules.annotations import ItemTexts
from worker.shared.grant_names import GrantName
from worker.whose.link_decoding import decodings, unescape_entities, without_invisible

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
    rf"""(?<![\w-])({_NAMES})(?:["']?[ \t]*+[:=][ \t]*+["']?)([^\s"'<>&,;()\\#|]++)""",
    re.IGNORECASE,
)
_KEY_LINE = re.compile(r"""(?im)^[ \t"']*+key[ \t]*+[:=][ \t]*+([^\r\n]++)""")
# A link may be a parameter or the path of another one.
_URL = re.compile(r"""https?://(?:(?!https?://)[^\s"'<>`\\|])+""", re.IGNORECASE)
_SIGNATURE_NAME = "x-amz-signature"
_SIGNED_NAMES = (_SIGNATURE_NAME, "x-amz-credential", "x-amz-expires")
"""Names of parameters and fields that only a signed link or form has."""
_WHOLE_SIGNATURE = re.compile(rf"{_SIGNATURE_NAME}=([0-9a-f]{{64}})(?![0-9a-f])", re.IGNORECASE)
_SIGNED = re.compile(rf"[^?*]*+\?(?:[^&*]*+&)*?{_WHOLE_SIGNATURE.pattern}", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_is_time = re.compile(r"[0-9]{8}T[0-9]{6}Z").fullmatch
_is_number = re.compile(r"[0-9]+").fullmatch
_INPUT = re.compile(r"<input\b[^<>]*+>", re.IGNORECASE)
# Names that only JSON has: a grant as the client prints it, and the metadata in a HEAD response.
_JSON_NAMES = {"id": "json-id", "grant-id": "x-amz-meta-grant-id", "key": "key", "method": "method"}
PATH = "path"
HOST = "host"


def read_pairs(text: str) -> Pairs:
    """Return what the text says of a grant, without the text around signed links.

    Raises ValueError for JSON that is too deep.
    """
    values = _load_json(text)
    pairs: Pairs = defaultdict(set)
    if values is not None:
        strings = list(_walk(values))
        for name, value in strings:
            if name in _JSON_NAMES or name.startswith("x-"):
                pairs[_JSON_NAMES.get(name, name)].add(value)
        text = "\n".join(value for _, value in strings if "://" in value)
    elif inputs := _INPUT.findall(text):
        form = _Form()
        form.feed("".join(inputs))
        return form.pairs
    _scan(without_invisible(unescape_entities(text)), pairs)
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


def _scan(text: str, pairs: Pairs) -> None:
    urls = _URL.findall(text)
    links = [url for url in urls if _is_signed_link(url)]
    # A mail repeats a link as its text, shortened. But no link hides the signature of another one.
    pairs[_SIGNATURE_NAME].update(_WHOLE_SIGNATURE.findall(text))
    text = "\n".join(links) or text
    for name, value in _PAIR.findall(text):
        pairs[name.lower()].add(unquote(value).rstrip(".,;:!?)>]}*`"))
    for value in _KEY_LINE.findall(text):
        pairs["key"].add(value.rstrip(" \t\"'"))
    pairs["url"].update(urls)
    for link in links:
        parts = urlsplit(link)
        port = _DEFAULT_PORTS.get(parts.scheme.lower(), ":")
        pairs[HOST].add(parts.netloc.lower().removesuffix(port))
        pairs[PATH].add(unquote(parts.path).removeprefix("/"))


def _is_signed_link(url: str) -> bool:
    """Return whether a URL is a whole signed link, and not one in the path of another.

    The path of a signed link has neither an encoded slash nor a plain colon, and no asterisk.
    """
    path = url.partition("?")[0].lower()
    return _SIGNED.match(url) is not None and "%2f" not in path and path.count(":/") == 1


MAX_PASTED_BYTES = 65_536
_MAX_DIGESTS = 10  # a multipart upload has links with several signatures
_SIGNATURE_DIGITS = 64
_ID = r"([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\.([0-9]{1,9})"
_GRANT_ID = re.compile(_ID, re.ASCII | re.IGNORECASE)
_BARE_ID = re.compile(rf"(?<![\w.-])(?:(?<!~)([\w~-]++)/)?{_ID}(?![\w-])", re.ASCII | re.IGNORECASE)


class Unreadable(ValueError):
    """The text names no grant, or several."""


@dataclass(frozen=True, slots=True)
class PastedGrant:
    """The id and the digests of signatures that a text has, and what else it says of the grant.

    No field has a signature or a URL. paths and hosts are those of signed URLs; keys are named
    beside them, as in a form. is_ambiguous is true if the text names several grants, is_truncated
    if it is of a link or form, but has no signature of 64 hexadecimal digits.
    """

    name: GrantName | None
    digests: frozenset[bytes] = field(repr=False)
    is_ambiguous: bool = False
    is_truncated: bool = False
    issued_at: datetime | None = None
    dates: frozenset[datetime | None] = frozenset()
    lifetimes: frozenset[str] = frozenset()
    access_keys: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()
    has_upload_id: bool = False

    @property
    def is_whole(self) -> bool:
        """True if the text has all parts that are compared, of a link or of a form without expiry.

        If a wrapper has changed a link, a part is missing or unreadable.
        """
        if not (self.digests and self.access_keys and self.dates) or None in self.dates:
            return False
        is_link = bool(self.paths) and all(map(_is_number, self.lifetimes))
        return is_link if self.lifetimes else bool(self.keys)


def read_pasted_grant(text: str) -> list[PastedGrant]:
    """Read a link, a form, JSON, metadata or a grant id, and return its possible readings.

    The text is decoded step by step, until a decoded text is whole: a link in a parameter of
    another signed link is not the one that was pasted. Raises Unreadable.
    """
    if len(text) > MAX_PASTED_BYTES:
        raise Unreadable(f"the text is longer than {MAX_PASTED_BYTES:,} bytes")
    partial: list[PastedGrant] = []
    for depth, level in enumerate(decodings(text)):
        readings = list(dict.fromkeys(filter(None, map(_read, level))))
        if whole := [each for each in readings if each.is_whole]:
            return _refuse_several(whole)
        # The text itself may leave something out, but a decoding that does so may be a wrong one.
        partial += map(_without_proof, readings) if depth else readings
    if not partial:
        raise Unreadable("this is no link, form, metadata or grant id")
    return _refuse_several([max(partial, key=_rank)])


def _without_proof(reading: PastedGrant) -> PastedGrant:
    is_truncated = reading.is_truncated or bool(reading.digests)
    return replace(reading, digests=frozenset(), is_truncated=is_truncated)


def _rank(reading: PastedGrant) -> tuple[bool, bool, bool]:
    is_named = reading.name is not None or reading.is_ambiguous
    return bool(reading.digests), reading.is_truncated and is_named, is_named


def _refuse_several(readings: list[PastedGrant]) -> list[PastedGrant]:
    names = {each.name for each in readings if each.name is not None}
    digests = {each.digests for each in readings}
    is_ambiguous = any(each.is_ambiguous or len(each.digests) > _MAX_DIGESTS for each in readings)
    if is_ambiguous or len(names) > 1 or len(digests) > 1:
        raise Unreadable("this names several grants: give one of them")
    return readings


def _read(text: str) -> PastedGrant | None:
    try:
        pairs = read_pairs(text)
    except ValueError:  # no JSON or URL that can be read
        return None
    values = pairs.get("x-grant-id", set()) | pairs.get("x-amz-meta-grant-id", set())
    names = _full_ids(map(str.strip, values)) | _full_ids(pairs.get("json-id", ()))
    signatures = {_hex_digits(value.lower()) for value in pairs.get(_SIGNATURE_NAME, ())}
    if not (names or values or signatures or pairs.get("url")):
        names = _bare_ids(text)
        if not names:
            return None
    whole = {each for each in signatures if len(each) == _SIGNATURE_DIGITS}
    dates = frozenset(map(_moment, pairs.get("x-amz-date", ())))
    return PastedGrant(
        name=next(iter(names)) if len(names) == 1 else None,
        digests=frozenset(map(signature_digest, whole)),
        is_ambiguous=len(names) > 1,
        is_truncated=not whole and any(map(pairs.get, _SIGNED_NAMES)),
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


def _hex_digits(text: str) -> str:
    """Return the digits at the beginning: a wrapper may have added something after a signature."""
    return "".join(takewhile("0123456789abcdef".__contains__, text))


def _full_ids(texts: Iterable[str]) -> set[GrantName]:
    matches = map(_GRANT_ID.fullmatch, texts)
    return {GrantName(match[1].lower(), int(match[2])) for match in matches if match}


def _bare_ids(text: str) -> set[GrantName]:
    matches = _BARE_ID.finditer(text)
    return {GrantName(match[2].lower(), int(match[3]), match[1]) for match in matches}


def _moment(text: str) -> datetime | None:
    if not _is_time(text):  # strptime also reads other digits, and fewer
        return None
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


Verdict = Literal["genuine", "altered", "unproven", "forged", "truncated", "named"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""All verdicts, the best first. A text gets the best one of its readings."""

_METHODS: dict[str, set[str]] = {
    "download": {"GET", "HEAD"},
    "upload": {"POST", "PUT"},
    "put": {"PUT"},
    "multipart": {"POST", "DELETE"},
    "parts": {"PUT"},
}
_FORM_KIND = "upload"
_ARN = "arn:"
_is_seconds = re.compile(r"[1-9][0-9]{0,6}").fullmatch
# An endpoint of S3, as AWS's page "Amazon S3 endpoints and quotas" lists them, without a bucket.
_is_s3 = re.compile(
    r"s3[a-z0-9-]*(?:\.dualstack)?(?:\.[a-z-]+-[0-9]+)?\.amazonaws\.com(?:\.cn)?"
).fullmatch


@dataclass(frozen=True, slots=True)
class Signing:
    """One signing of a grant: at its issue, or again later with other credentials."""

    digest: bytes | None = field(repr=False)
    access_key: str | None
    signed_again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedGrant(ItemTexts):
    """A grant of the audit log, with its bucket profile of today and the state of its upload.

    real_buckets are those that the profile has had, and hosts those of its endpoints as
    `storage_host` writes them; provider is None if it was removed. signings has the first one
    first. revocations are those that cover it, the oldest first.
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
    hosts: frozenset[str | None]
    provider: str | None
    has_role: bool
    upload: str | None
    cancelled_at: datetime | None
    revocations: tuple[RecordedRevocation, ...] = ()

    @property
    def expires_at(self) -> datetime:
        """The time from which storage refuses the grant."""
        return self.issued_at + timedelta(seconds=self.expires_in)


def matching_signing(pasted: PastedGrant, grant: AuditedGrant) -> Signing | None:
    """Return the signing that gave the pasted signature, or None."""
    return next((each for each in grant.signings if each.digest in pasted.digests), None)


def judge(pasted: PastedGrant, grant: AuditedGrant) -> tuple[Verdict, list[str]]:
    """Return the verdict, and the names of the parts that differ from the audit log."""
    signing = matching_signing(pasted, grant)
    if not pasted.digests:
        return "truncated" if pasted.is_truncated else "named", []
    if signing is not None:
        differences = list(_differences(pasted, grant, signing))
        has_terms = pasted.keys if grant.kind == _FORM_KIND else pasted.paths and pasted.lifetimes
        if not differences and not (has_terms and pasted.is_whole):
            return "truncated", []
        return "altered" if differences else "genuine", differences
    # The link that aborts an upload is signed with the one that completes it, and has no digest.
    is_abort = grant.kind == "multipart" and pasted.has_upload_id and grant.code is None
    return "unproven" if is_abort else "forged", []


def _differences(pasted: PastedGrant, grant: AuditedGrant, signing: Signing) -> Iterator[str]:
    if pasted.name is None and not grant.is_plain:
        yield "the grant id is missing"
    if grant.kind != "multipart" and not pasted.digests <= {each.digest for each in grant.signings}:
        yield "another signature"
    keys = {grant.key, without_invisible(grant.key)}
    if not pasted.keys <= keys or not all(_is_path(path, grant) for path in pasted.paths):
        yield "key or bucket"
    elif not all(_is_host(host, grant, pasted.paths) for host in pasted.hosts):
        yield "host"
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
    """Return whether the host of a link is that of the storage, as far as that is known."""
    if not grant.hosts or _is_access_point(grant):
        return True
    is_virtual = grant.key in paths  # the bucket is in the host, and not in the path
    buckets = [f"{bucket}." for bucket in grant.real_buckets] if is_virtual else [""]
    servers = [host.removeprefix(each) for each in buckets if host.startswith(each)]
    return any(each in grant.hosts or (None in grant.hosts and _is_s3(each)) for each in servers)


def _is_lifetime(text: str, grant: AuditedGrant, signing: Signing) -> bool:
    if signing.signed_again_at is not None:  # other credentials may have ended earlier
        return _is_seconds(text) is not None and int(text) <= grant.expires_in
    return text == str(grant.expires_in)


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
        cancel = "`valetkey cancel` of the multipart batch with --abort-uploads"
        if grant.kind == "multipart":
            cancel = f"`valetkey cancel {grant.grant.partition('.')[0]} --abort-uploads`"
        yield (
            f"abort the upload: {cancel}, or AbortMultipartUpload; no part and no completion is"
            " accepted then"
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
