"""Sentences of the command line about refusals and quotas, with all foreign text made printable."""

from valetkey.cli.bulk.row_errors import RowRefusal, find_row
from valetkey.wire.refusals import QuotaState, Refusal

_UNITS = {
    "grants": "grants",
    "download_grants": "download grants",
    "upload_bytes": "bytes to upload",
}


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
    return text if refusal.limit is None else f"{text} (limit: {_format_limit(refusal.limit)})"


def describe_quota_warning(quota: QuotaState) -> str:
    """Warn that a quota's soft limit is reached, and state how much is left."""
    return (
        f"warning: {quota.used} of {quota.limit} {_quota_unit(quota)} are used, "
        f"{quota.left} are left; {_reset_hint(quota)}"
    )


def deduplication_key(refusal: Refusal) -> tuple[str, str, str]:
    """Return a key that is equal for refusals with the same code, field and message."""
    return refusal.code, refusal.field, refusal.message


def escape_unprintable(text: str) -> str:
    """Escape every non-printable character, so that foreign text cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _describe_quota(quota: QuotaState) -> str:
    return (
        f"the limit is {quota.limit} {_quota_unit(quota)}, {quota.used} are used and "
        f"{quota.asked} were requested; {_reset_hint(quota)}"
    )


def _quota_unit(quota: QuotaState) -> str:
    unit = _UNITS.get(quota.metric, quota.metric.replace("_", " "))
    text = f"live {unit}" if quota.window == "live" else f"{unit} per {quota.window}"
    return escape_unprintable(text)


def _reset_hint(quota: QuotaState) -> str:
    if quota.resets_at is None:
        return "capacity becomes free as grants expire"
    return f"the quota resets at {quota.resets_at:%Y-%m-%d %H:%M %Z}"


def _format_limit(limit: int | str | list[str]) -> str:
    text = ", ".join(limit) if isinstance(limit, list) else str(limit)
    return escape_unprintable(text or "none")
