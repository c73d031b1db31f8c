"""Where in tenants.toml something stands."""

import json
import re

Location = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]").match
_FIELD = re.compile(r"\s*([\w.\"'-]+)\s*=").match


def format_location(location: Location) -> str:
    """A location as TOML writes it, with the number of an array's item behind it."""
    steps = (
        f"[{part}]" if isinstance(part, int) else f".{part if _BARE(part) else json.dumps(part)}"
        for part in location
    )
    return "".join(steps).removeprefix(".")


class LineIndex:
    """The lines of tables and fields. tomllib does not say them, and a guess by line will do."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {}
        table: Location = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if header := _HEADER(line):
                table = _keys(header[1])
                for end in range(1, len(table) + 1):
                    self._lines.setdefault(table[:end], number)
            elif field := _FIELD(line):
                self._lines.setdefault(table + _keys(field[1]), number)

    def line(self, location: Location) -> int | None:
        """Its line, or that of the nearest thing around it that has one."""
        ends = range(len(location), 0, -1)
        return next((self._lines[location[:e]] for e in ends if location[:e] in self._lines), None)


def _keys(dotted: str) -> Location:
    return tuple(key.strip().strip("\"'") for key in dotted.split("."))
