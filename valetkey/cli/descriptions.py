"""Sentences of the command line about refusals, quotas and results, with foreign text escaped."""

from valetkey.cli.journal import Checkpoint
from valetkey.cli.row_errors import RowRefusal, find_row
from valetkey.cli.terminal_text import escape_unprintable
from valetkey.units import describe_amount, describe_duration, describe_live_reset, describe_size
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.terms import MIN_PART_BYTES

_DURATION_CODES = frozenset({Code.EXPIRY_INVALID, Code.EXPIRY_TOO_LONG, Code.EXPIRY_TOO_SHORT})
_SIZE_CODES = frozenset(
    {Code.SIZE_INVALID, Code.SIZE_REQUIRED, Code.SIZE_TOO_LARGE, Code.METADATA_INVALID}
)
_UNITS = {
    "grants": "grants",
    "download_grants": "download grants",
    "upload_bytes": "uploads",
    "stored_bytes": "stored objects",
    "uncharged_bytes": "records without a charge",
}

_SECONDS_PER_MINUTE = 60


def describe_refusal(refusal: Refusal) -> str:
    """Describe what was refused, the cause, and the limit that would have been accepted."""
    subject = "the request" if refusal.key is None else repr(refusal.key)
    return f"refused {subject}: {describe_cause(refusal)}"


def describe_row_refusal(refusal: Refusal, source: str) -> str:
    """Describe the refusal of a row as describe_refusal does, with its file, line and column."""
    row = find_row(refusal)
    if row is None:
        return describe_refusal(refusal)
    line, column = row
    location = f"{name_source(source)}, line {line}"
    if column:
        location += f", column {escape_unprintable(column)}"
    if isinstance(refusal, RowRefusal):
        return f"{location}: {refusal.code}: {escape_unprintable(refusal.message)}"
    cause = describe_cause(refusal.model_copy(update={"field": ""}))
    subject = "" if refusal.key is None else f" {refusal.key!r}"
    return f"{location}: refused{subject}: {cause}"


def name_source(source: str) -> str:
    """Return the name of an input in messages."""
    return "stdin" if source == "-" else escape_unprintable(source)


def describe_cause(refusal: Refusal) -> str:
    """Describe a refusal's code, field, cause and limit, but not its key."""
    location = f" in {refusal.field}" if refusal.field else ""
    text = escape_unprintable(f"{refusal.code}{location}: {refusal.message}")
    if refusal.quota is not None:
        return f"{text}; {_describe_quota(refusal.quota)}"
    return f"{text}{describe_limit(refusal)}"


def describe_limit(refusal: Refusal) -> str:
    """Describe a refusal's limit in parentheses; empty if it has none, or its message names it."""
    limit = refusal.limit
    if limit is None:
        return ""
    if isinstance(limit, int):
        number = _describe_number(refusal, limit)
        return "" if number in refusal.message else f" (limit: {number})"
    text = ", ".join(limit) if isinstance(limit, list) else limit
    return f" (limit: {escape_unprintable(text) if text != '' else 'none'})"


def describe_quota_warning(quota: QuotaState) -> str:
    """Warn that a quota's soft limit is reached, and state how much is left."""
    return (
        f"warning: {_describe(quota, quota.used)} of {_describe(quota, quota.limit)} "
        f"{_quota_unit(quota)} used, {_describe(quota, quota.left)} left; "
        f"{_reset_hint(quota)}"
    )


def deduplication_key(refusal: Refusal) -> tuple[str, str, str]:
    """Return a key that is equal for refusals with the same code, field and message."""
    return refusal.code, refusal.field, refusal.message


def _describe_quota(quota: QuotaState) -> str:
    asked = "" if quota.asked is None else f", {_describe(quota, quota.asked)} requested"
    return (
        f"the limit is {_describe(quota, quota.limit)} {_quota_unit(quota)}: "
        f"{_describe(quota, quota.used)} used{asked}; {_reset_hint(quota)}"
    )


def _quota_unit(quota: QuotaState) -> str:
    unit = _UNITS.get(quota.metric, quota.metric.removesuffix("_bytes").replace("_", " "))
    text = f"live {unit}" if quota.window == "live" else f"{unit} per {quota.window}"
    return escape_unprintable(f"of {text}" if quota.metric.endswith("_bytes") else text)


def _reset_hint(quota: QuotaState) -> str:
    if quota.resets_at is None:
        return f"capacity becomes free {describe_live_reset(quota.metric)}"
    return f"the quota resets at {quota.resets_at:%Y-%m-%d %H:%M %Z}"


def _describe(quota: QuotaState, amount: int) -> str:
    return describe_amount(quota.metric, amount)


def _describe_number(refusal: Refusal, limit: int) -> str:
    if refusal.code in _DURATION_CODES:
        return describe_duration(limit)
    # The limit of part_size is a size, or the number of parts that a file may have.
    is_part_size = refusal.code == Code.PART_INVALID and limit >= MIN_PART_BYTES
    is_size = is_part_size or refusal.code in _SIZE_CODES
    return describe_size(limit) if is_size else f"{limit:,}"


def describe_run(checkpoint: Checkpoint, granted_before: int, out: str, seconds: float) -> str:
    """Describe the results of a run that wrote the file `out`.

    granted_before is the number of grants that the file has from an earlier run.
    """
    charged = "charged"
    if granted_before:
        charged = f"charged, {checkpoint.granted - granted_before:,} of them now"
    counts = describe_counts(
        checkpoint.granted, checkpoint.refused, charged, _describe_codes(checkpoint)
    )
    return f"{out}: {counts}, in {describe_seconds(seconds)}"


def describe_counts(granted: int, refused: int, charged: str = "charged", codes: str = "") -> str:
    """Describe what was granted and charged, and what was refused and was not."""
    grants = f"{granted:,} granted ({charged})" if granted else "none granted"
    refusals = f"{refused:,} refused (not charged{codes})" if refused else "none refused"
    return f"{grants}, {refusals}"


def describe_short_grants(out: str, expired: int, short: int, min_left: int | None) -> str:
    """Describe how many rows of an output have expired, and how many have too little time left."""
    left = "a tenth of the requested time" if min_left is None else describe_duration(min_left)
    rows = f"{expired:,} rows have expired, {short:,} more have less than {left} left"
    return f"{out}: {rows}: request all rows again, which are charged again, with the next command"


def describe_seconds(seconds: float) -> str:
    """Describe the time that a command took."""
    if seconds < _SECONDS_PER_MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _SECONDS_PER_MINUTE)
    return f"{minutes} min {rest} s"


def _describe_codes(checkpoint: Checkpoint) -> str:
    if not checkpoint.codes:
        return ""
    counts = sorted(checkpoint.codes.items(), key=lambda item: (-item[1], item[0]))
    return ": " + ", ".join(f"{count:,} {escape_unprintable(code)}" for code, count in counts)
