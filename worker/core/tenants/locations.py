"""Locations in tenants.toml: their paths and line numbers."""

import json
import re

Location = tuple[str | int, ...]

_is_bare_key = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_match_header = re.compile(r"\s*\[([^\[\]]+)\]").match
_match_field = re.compile(r"\s*([\w.\"'-]+)\s*=").match


def format_location(location: Location) -> str:
    """Format a location as a dotted TOML key, with the indices of array items in brackets."""
    parts = (
        f"[{part}]"
        if isinstance(part, int)
        else f".{part if _is_bare_key(part) else json.dumps(part)}"
        for part in location
    )
    return "".join(parts).removeprefix(".")


class LineIndex:
    """The line numbers of tables and fields in a TOML text.

    tomllib reports no line numbers. A line-by-line scan is exact enough for error messages.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {}
        table: Location = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if header := _match_header(line):
                table = _split_dotted_key(header[1])
                for length in range(1, len(table) + 1):
                    self._lines.setdefault(table[:length], number)
            elif field := _match_field(line):
                self._lines.setdefault(table + _split_dotted_key(field[1]), number)

    def find_line(self, location: Location) -> int | None:
        """Return the line of a location or of its nearest parent that has one."""
        for length in range(len(location), 0, -1):
            if line := self._lines.get(location[:length]):
                return line
        return None


def _split_dotted_key(dotted_key: str) -> Location:
    return tuple(part.strip().strip("\"'") for part in dotted_key.split("."))
