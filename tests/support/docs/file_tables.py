"""The file names and content types of docs/files.md, and the tables with what was measured."""

import unicodedata
from collections.abc import Mapping, Sequence

from tests.support.docs.command_lines import ROOT

DOCUMENT = ROOT / "docs" / "files.md"

NAMES = (
    # ASCII
    *("report.pdf", "annual report (2026).pdf", "archive.tar.gz", "README", "-rf.pdf"),
    *("50% off.txt", "50%25.txt", "100%.txt", "a; filename=evil.exe; b.txt"),
    *("Bob's, and Ann's = ours.txt", "#1 & $2 @home!.txt", "a..b.txt"),
    # other scripts and emoji
    *("Übergrößenträger.pdf", "re\u0301sume\u0301.txt", "Đặng Thị Hà.docx", "отчёт за ноябрь.csv"),
    *(
        "Ελληνικά.pdf",
        "四半期報告書\uff08最終\uff09.xlsx",
        "売上\uff0f原価\uff1aQ3\uff1f.xlsx",
        "영수증.pdf",
    ),
    *("تقرير.pdf", "می\u200cشود.pdf", "חשבונית.pdf", "ใบเสร็จรับเงิน.pdf", "रिपोर्ट.pdf"),
    *("চালান.pdf", "🧾 receipt.pdf", "\U0001f468\u200d\U0001f469\u200d\U0001f467.png"),
    # look-alikes of dots, quotes and letters
    *("invoice.exe\uff02.pdf", "invoice.exe\uff1b x=\uff02.pdf", "invoice.pdf\u2024exe"),
    *("invoice.\uff45\uff58\uff45", "invoice.e\u0301xe", "\u2026und dann.pdf"),
    # of the longest length, and longer
    *("漢" * 77 + ".pdf", "x" * 232 + ".pdf", "漢" * 78 + ".pdf"),
    # paths, quotes, reserved and invisible characters
    *("../../.ssh/config", "..\\..\\autoexec.bat"),
    "\uff0e\uff0e\uff0f\uff0e\uff0e\uff0f.ssh\uff0fconfig",
    *("\u2025\u2215\u2025\u2215etc\u2215passwd", 'invoice.exe".pdf', "invoice.pdf:evil.exe"),
    *("%2Ebashrc", "invoice\u202efdp.exe", "invoice\u200b.pdf", "invoice.exe\0.pdf"),
    *("invoice.exe.", ".bashrc", "NUL.txt"),
)

TYPES = (
    *("text/plain", "text/csv", "text/markdown", "text/css", "text/html", "text/xml", "text/xsl"),
    *("text/javascript", "text/jscript", "text/ecmascript", "text/x-python", "text/vtt"),
    *("text/anything", "text/anything+xml", "application/octet-stream", "application/pdf"),
    *("application/zip", "application/json", "application/ld+json", "application/vnd.ms-excel"),
    *("application/xhtml+xml", "application/xml", "application/rss+xml"),
    *("application/anything+xml", "application/javascript", "application/x-javascript"),
    *("application/wasm", "application/x-shockwave-flash", "application/unknown", "image/png"),
    *("image/webp", "image/tiff", "image/svg+xml", "image/svg", "image/anything+xml", "audio/mpeg"),
    *("audio/anything+xml", "video/mp4", "video/anything+xml", "font/woff2", "model/gltf-binary"),
    *("multipart/x-mixed-replace", "message/rfc822", "unknown/unknown", "x/y"),
    *("text/plain;charset=utf-7", "text/html;charset=utf-8", "TEXT/HTML", "text/plain,text/html"),
    "video/mp4,text/html",
)


def show(text: str) -> str:
    """Return text for a cell of a table, with escapes for what a reader would not see."""
    shortest = 60
    if len(text) > shortest and len(set(text[:shortest])) == 1:
        run = len(text) - len(text.lstrip(text[0]))
        return f"`{text[run:]}` after {run} times `{text[0]}`"
    return f"`{''.join(map(_show_character, text))}`".replace("|", "\\|")


def _show_character(character: str) -> str:
    category = unicodedata.category(character)
    is_seen = character == " " or category[0] not in "CZ"
    return character if is_seen else f"\\u{ord(character):04x}"


class Table:
    """One table of the document, between two comments with its name."""

    def __init__(self, name: str) -> None:
        self._marks = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"

    def column(self, title: str) -> list[str]:
        """Return the cells of a column."""
        return self._read().get(title, [])

    def replace_column(self, title: str, cells: Sequence[str]) -> None:
        """Write the cells of a column into the document."""
        self._write(self._read() | {title: list(cells)})

    def _read(self) -> dict[str, list[str]]:
        _, table, _ = self._parts()
        lines = [
            [cell.strip() for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")]
            for line in table.splitlines()
        ]
        return {
            title: [line[number] for line in lines[2:]]
            for number, title in enumerate(lines[0] if lines else ())
        }

    def _write(self, columns: Mapping[str, Sequence[str]]) -> None:
        before, _, after = self._parts()
        rows = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        DOCUMENT.write_text(before + table + after, encoding="utf-8")

    def _parts(self) -> tuple[str, str, str]:
        start, end = self._marks
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(start)
        table, _, after = rest.partition(end)
        return before + start, table, end + after
