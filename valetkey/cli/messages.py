"""What the command line says in words: refusals, quotas, and others' words made harmless."""

from valetkey.cli.bulk.row_errors import RowRefusal
from valetkey.wire.refusals import QuotaState, Refusal

_UNITS = {
    "grants": "grants",
    "download_grants": "download grants",
    "upload_bytes": "bytes to upload",
}


def describe_refusal(refusal: Refusal) -> str:
    """Why something was refused, and what would not have been."""
    if isinstance(refusal, RowRefusal):
        return f"refused row {refusal.row}: {refusal.code}: {printable(refusal.message)}"
    what = "the request" if refusal.key is None else repr(refusal.key)
    return f"refused {what}: {describe_reason(refusal)}"


def describe_reason(refusal: Refusal) -> str:
    """A refusal's code, where, why, and what would have been allowed."""
    where = f" in {refusal.field}" if refusal.field else ""
    text = printable(f"{refusal.code}{where}: {refusal.message}")
    if refusal.quota is not None:
        return f"{text}; {_quota(refusal.quota)}"
    return text if refusal.limit is None else f"{text} (limit: {_limit(refusal.limit)})"


def describe_quota_warning(quota: QuotaState) -> str:
    """That a quota's soft limit is reached, and what is left."""
    return (
        f"warning: {quota.used} of {quota.limit} {_counted(quota)} are used, "
        f"{quota.left} are left; {_renewed(quota)}"
    )


def refusal_identity(refusal: Refusal) -> tuple[str, str, str]:
    """What a refusal says, whichever item it is of: two that say the same are said once."""
    return refusal.code, refusal.field, refusal.message


def printable(text: str) -> str:
    """Others' words, none of which moves the terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quota(quota: QuotaState) -> str:
    return (
        f"the limit is {quota.limit} {_counted(quota)}, {quota.used} are used and "
        f"{quota.asked} were asked for; {_renewed(quota)}"
    )


def _counted(quota: QuotaState) -> str:
    unit = _UNITS[quota.metric]
    return f"live {unit}" if quota.window == "live" else f"{unit} per {quota.window}"


def _renewed(quota: QuotaState) -> str:
    if quota.resets_at is None:
        return "there is room again as grants lapse"
    return f"it starts again at {quota.resets_at:%Y-%m-%d %H:%M %Z}"


def _limit(limit: int | str | list[str]) -> str:
    return printable(", ".join(limit) if isinstance(limit, list) else str(limit))
