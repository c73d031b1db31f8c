"""The policy and the quotas of a fake client, and the checks of a request by the policy. Pure."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict

from valetkey.signing.object_keys import key_refusal
from valetkey.signing.response_headers import find_filename_fault
from valetkey.signing.signing_context import plan_parts
from valetkey.units import describe_duration, describe_size
from valetkey.wire.messages import MAX_BATCH_ITEMS, ChunkMessage, Item
from valetkey.wire.refusals import Code, Metric, Refusal, Window
from valetkey.wire.replies import RuleVerdict
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_MULTIPART_BYTES, MAX_PARTS, AnyTerms, PolicyKind

_CONFIG = ConfigDict(extra="forbid", frozen=True)
_TEXTS = ("recipient", "reason", "ref")
_ITEM_FIELDS = {
    "download": {"filename", "version_id"},
    "upload": {"size", "checksum"},
    "put": {"size", "checksum"},
    "multipart": {"size"},
    "parts": {"part"},
}
_REQUIRED = {
    "put": ("size", Code.SIZE_REQUIRED),
    "multipart": ("size", Code.SIZE_REQUIRED),
    "parts": ("part", Code.PART_INVALID),
}


class Policy(BaseModel):
    """The requests that a fake client may make in a bucket profile. By default, all of them.

    The fields are those of a policy in tenants.toml. A wildcard of content_types, like `image/*`,
    includes every type of its family.
    """

    model_config = _CONFIG

    prefixes: tuple[str, ...] = ("*",)
    kinds: tuple[PolicyKind, ...] = get_args(PolicyKind)
    max_expires_in: int = MAX_EXPIRES_IN
    max_size: int = MAX_MULTIPART_BYTES
    content_types: tuple[str, ...] = ("*/*",)
    overwrite: bool = True
    max_batch: int = MAX_BATCH_ITEMS


class Quota(BaseModel):
    """A quota of the tenant: the limit of one metric in one window."""

    model_config = _CONFIG

    metric: Metric
    window: Window
    limit: int
    warn_at: int | None = None


def window_bounds(window: Window, now: datetime) -> tuple[datetime, datetime | None]:
    """Return the start and the end, in UTC, of the window of a quota; live has no end."""
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    hour = minute.replace(minute=0)
    match window:
        case "live":
            return datetime.min.replace(tzinfo=UTC), None
        case "month":
            start = hour.replace(hour=0, day=1)
            return start, (start + timedelta(days=32)).replace(day=1)
        case "day":
            return hour.replace(hour=0), hour.replace(hour=0) + timedelta(days=1)
        case "hour":
            return hour, hour + timedelta(hours=1)
    return minute, minute + timedelta(minutes=1)


def refuse(code: Code, field: str, message: str, limit: Any = None) -> Refusal:
    """Refuse a field of a request; limit is what would be accepted."""
    return Refusal(code=code, field=field, message=message, limit=limit)


def policy_verdicts(message: ChunkMessage, policy: Policy, now: datetime) -> Iterator[RuleVerdict]:
    """Yield the verdict of each rule of the policy on a request, in the service's order."""
    terms, deadline = message.grant, message.deadline
    kind = "multipart" if terms.kind == "parts" else terms.kind

    def verdict(rule: str, found: object, code: Code, limit: Any, *, is_kept: bool) -> RuleVerdict:
        text = "the policy of the fake client does not allow this"
        refusal = None if is_kept else refuse(code, rule, text, limit)
        return RuleVerdict(rule=rule, found=str(found), refusal=refusal)

    largest = policy.max_batch
    is_kept = message.total <= largest
    yield verdict("total", message.total, Code.BATCH_TOO_LARGE, largest, is_kept=is_kept)
    if deadline is not None:
        date, is_kept = deadline.isoformat(), deadline > now
        yield verdict("deadline", date, Code.DEADLINE_PASSED, date, is_kept=is_kept)
    kinds, is_kept = sorted(policy.kinds), kind in policy.kinds
    yield verdict("grant.kind", kind, Code.KIND_NOT_ALLOWED, kinds, is_kept=is_kept)
    if (name := getattr(terms, "filename", None)) is not None:
        fault = find_filename_fault(name)
        yield verdict("grant.filename", name, Code.FILENAME_INVALID, None, is_kept=fault is None)
    if (type_ := getattr(terms, "content_type", None)) is not None:
        types = list(policy.content_types)
        is_kept = not {type_, f"{type_.partition('/')[0]}/*", "*/*"}.isdisjoint(types)
        code = Code.CONTENT_TYPE_NOT_ALLOWED
        yield verdict("grant.content_type", type_, code, types, is_kept=is_kept)
    if (size := getattr(terms, "max_size", None)) is not None:
        found, is_kept = describe_size(size), size <= policy.max_size
        yield verdict(
            "grant.max_size", found, Code.SIZE_TOO_LARGE, policy.max_size, is_kept=is_kept
        )
    if getattr(terms, "overwrite", False):
        code = Code.OVERWRITE_NOT_ALLOWED
        yield verdict("grant.overwrite", "yes", code, None, is_kept=policy.overwrite)
    name = "expires_in" if terms.min_expires_in is None else "min_expires_in"
    seconds, longest = getattr(terms, name), policy.max_expires_in
    found, is_kept = describe_duration(seconds), seconds <= longest
    yield verdict(f"grant.{name}", found, Code.EXPIRY_TOO_LONG, longest, is_kept=is_kept)


def item_refusal(item: Item, terms: AnyTerms, policy: Policy, field: str) -> Refusal | None:
    """Refuse an item for the first check that it fails; field is its path in the message."""
    prefixes = ["" if prefix == "*" else prefix for prefix in policy.prefixes]
    refusal = key_refusal(item.key, prefixes, f"{field}.key") or _field_refusal(item, terms, field)
    return refusal and refusal.model_copy(update={"key": item.key})


def _field_refusal(item: Item, terms: AnyTerms, field: str) -> Refusal | None:
    allowed = {"key", *_TEXTS, *_ITEM_FIELDS[terms.kind]}
    for name in Item.model_fields:
        if name not in allowed and getattr(item, name) is not None:
            text = f"an item of the kind {terms.kind} has no such field"
            return refuse(Code.UNKNOWN_FIELD, f"{field}.{name}", text)
    required, code = _REQUIRED.get(terms.kind, ("key", Code.KEY_INVALID))
    if getattr(item, required) is None:
        text = f"every item of the kind {terms.kind} needs its {required}"
        return refuse(code, f"{field}.{required}", text)
    if item.filename is not None and (fault := find_filename_fault(item.filename)) is not None:
        return refuse(Code.FILENAME_INVALID, f"{field}.filename", fault)
    return None if item.size is None else _size_refusal(item.size, terms, f"{field}.size")


def _size_refusal(size: int, terms: AnyTerms, field: str) -> Refusal | None:
    low, high = getattr(terms, "min_size", 0), getattr(terms, "max_size", size)
    if size > high:
        return refuse(Code.SIZE_TOO_LARGE, field, "larger than max_size", high)
    if size < low:
        return refuse(Code.SIZE_INVALID, field, "smaller than min_size", low)
    if terms.kind == "multipart" and plan_parts(size, terms.part_size) is None:
        return refuse(Code.PART_INVALID, field, "more parts than storage accepts", MAX_PARTS)
    return None
