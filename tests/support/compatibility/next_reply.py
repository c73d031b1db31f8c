"""The replies of the simulated next release, which copies this module into its worker."""

from typing import Any

_QUOTA = {"metric": "copies", "window": "week", "limit": 9, "used": 1, "unit": "copies"}


def extend_reply(values: dict[str, Any]) -> dict[str, Any]:
    """Add what this client does not know: fields everywhere, a code, a metric and a source."""
    extended: dict[str, Any] = _extend(values)
    if "quotas" in extended:
        extended["quotas"] = [*extended["quotas"], _QUOTA]
    return extended


def _extend(value: Any) -> Any:
    """Add a field to every object but maps of names, and change a code and a source of expiry."""
    if isinstance(value, list):
        return [_extend(each) for each in value]
    if not isinstance(value, dict):
        return value
    maps = {name: value[name] for name in ("fields", "headers") if name in value}
    extended = {name: _extend(each) for name, each in value.items()} | maps
    if extended.get("code") == "key_outside_prefix":
        extended["code"] = "weather_bad"
    if "limited_by" in extended:
        extended["limited_by"] = "session"
    return extended | {"added_later": {"by": "the next release"}}
