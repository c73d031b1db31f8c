"""The units of the numbers in tenants.toml."""

from collections.abc import Sequence

from valetkey.units import describe_amount, describe_duration, describe_size

_DURATIONS = frozenset({"max_expires_in", "role_seconds"})
_QUOTAS_DEPTH = 2  # a quota's location begins with tenants, the tenant's name, quotas, the metric


def describe_number(location: Sequence[str | int], number: int) -> str:
    """Describe the number at a location of the file: a duration, a size or a plain number."""
    if location[_QUOTAS_DEPTH : _QUOTAS_DEPTH + 1] == ("quotas",):
        return describe_amount(str(location[_QUOTAS_DEPTH + 1]), number)
    if location[-1] in _DURATIONS:
        return describe_duration(number)
    return describe_size(number) if location[-1] == "max_size" else f"{number:,}"
