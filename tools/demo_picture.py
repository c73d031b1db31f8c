"""Draws docs/demo.svg, the picture of the demo's terminal: `make picture`.

Times and measurements are replaced by constants. So the same demo gives the same picture, and a
test compares the picture with what the demo prints.
"""

import io
import os
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tools.terminal import run_in_terminal

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "demo.svg"
COLUMNS = 80

_FIRST, _END = "Start a broker", "$ python -m worker audit list"  # the lines between are shown
# The constants are of a run on two cores.
_CONSTANTS = (
    (r"\d\d:\d\d:\d\d UTC", "12:00:00 UTC"),
    (r"(?<!:)\b\d\d:\d\d UTC", "13:00 UTC"),
    (r"ready after [\d.]+ s", "ready after 7.4 s"),
    (r"links in [\d.]+ s: [\d,]+ per second", "links in 0.29 s: 34,336 per second"),
    (r"(?<!\d)\d:\d\d:\d\d(?!\d)", "0:00:00"),
    (r"\d+ results", "24 results"),
)
_COLOURS = "6e7681 ff7b72 56d364 e3b341 79c0ff d2a8ff 56d4dd e1e4e8"  # black, red, green, yellow, …


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour)
    return red, green, blue


_THEME = TerminalTheme(_rgb("161b22"), _rgb("e1e4e8"), list(map(_rgb, _COLOURS.split())))
# Rich's own format loads a font from the internet, which pages that show the picture may not.
_FORMAT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>The terminal after make demo</title>
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def run_demo() -> list[str]:
    """Run the demo in a terminal, and return its lines with their colours."""
    command = [sys.executable, "-m", "examples.demo"]
    return run_in_terminal(command, os.environ, columns=COLUMNS, cwd=ROOT)


def draw(lines: list[str]) -> str:
    """Return the picture of a demo that printed these lines, as SVG."""
    texts = [Text.from_ansi(_normalise(line)) for line in lines]
    first = next(number for number, text in enumerate(texts) if text.plain.startswith(_FIRST))
    end = next(number for number, text in enumerate(texts) if _END in text.plain)
    console = Console(
        record=True,
        file=io.StringIO(),
        width=COLUMNS,
        force_terminal=True,
        color_system="truecolor",
    )
    for text in [Text("$ make demo", "dim"), Text(), *texts[first:end], Text()]:
        console.print(text)
    return console.export_svg(
        title="make demo", theme=_THEME, code_format=_FORMAT, unique_id="demo"
    )


def _normalise(line: str) -> str:
    for pattern, constant in _CONSTANTS:
        line = re.sub(pattern, constant, line)
    return line


if __name__ == "__main__":
    PICTURE.write_text(draw(run_demo()), encoding="utf-8")
