"""The last line of a long command, on stderr: what was granted, charged and refused."""

from valetkey.cli.bulk.journal import Checkpoint
from valetkey.cli.printable import escape_unprintable

_SECONDS_PER_MINUTE = 60


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
