"""What curl, wget and Chromium make of file names and content types, as docs/appendix/file-names.md
says; the table of wildcards in docs/files.md.

VALETKEY_TEST_WRITE=1 writes the tables instead of comparing them.
"""

import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.docs.command_lines import ROOT
from tests.support.s3.chromium import Tab
from tests.support.s3.http_requests import get, send
from tests.support.s3.stores import DOWNLOAD, Store, new_key
from valetkey.signing.response_headers import find_filename_fault, make_fallback
from valetkey.wire.terms import Download
from worker.rules.policy_rules import INERT_TYPES, check_content_type
from worker.rules.tenant_config import Policy

DOCUMENT = ROOT / "docs" / "appendix" / "file-names.md"
RULES = ROOT / "docs" / "files.md"

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
    """One table of a document, between two comments with its name."""

    def __init__(self, name: str, document: Path = DOCUMENT) -> None:
        self._document = document
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
        self._document.write_text(before + table + after, encoding="utf-8")

    def _parts(self) -> tuple[str, str, str]:
        start, end = self._marks
        before, _, rest = self._document.read_text(encoding="utf-8").partition(start)
        table, _, after = rest.partition(end)
        return before + start, table, end + after


Save = Callable[[str, Path], None]

CONTENT = b"\x00\x01 content"
IS_WRITING = "VALETKEY_TEST_WRITE" in os.environ
SENT_NAMES = [name for name in NAMES if find_filename_fault(name) is None]
MAX_SHOWN = 100
PAGE = (
    b'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
    b"<body><script>window.ran = true</script></body></html>"
)
WILDCARDS = Policy("demo", ("",), ("download",), content_types=("*/*",))
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?")
_COMMANDS = {
    "curl": ("curl", "--disable", "--silent", "--show-error", "-OJ"),
    "wget": ("wget", "--no-config", "--no-hsts", "--quiet", "--content-disposition"),
}


def command_saver(client: str) -> Save:
    """Return a function that saves with a command, in the version of the document."""
    path = shutil.which(client)
    if path is None:
        pytest.skip(f"{client} is not installed")  # also in CI: it comes with the machine
    line = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    version = _VERSION.search(line)
    assert version is not None
    if not IS_WRITING and f"{client} {version[0]}" not in DOCUMENT.read_text(encoding="utf-8"):
        pytest.skip(f"the document has another version than {client} {version[0]}")
    return lambda url, folder: run_command(_COMMANDS[client], url, folder)


def run_command(command: Sequence[str], url: str, folder: Path) -> None:
    environ = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    subprocess.run([*command, url], cwd=folder, env=environ, check=True, capture_output=True)


@pytest.fixture(params=["curl", "wget", "Chromium"])
def client(request: pytest.FixtureRequest) -> tuple[str, Save]:
    """A client's name, and a function that saves a URL in a folder as the client does."""
    name = str(request.param)
    if name != "Chromium":
        return name, command_saver(name)
    tab: Tab = request.getfixturevalue("tab")
    return name, tab.save


def saved_name(save: Save, url: str, folder: Path) -> str:
    """Save the content behind a URL; return the name of the only file, relative to the folder."""
    folder.mkdir()
    save(url, folder)
    (path,) = [path for path in folder.rglob("*") if path.is_file()]
    assert path.read_bytes() == CONTENT
    return str(path.relative_to(folder))


def check_column(table: Table, title: str, cells: list[str]) -> None:
    if IS_WRITING:
        table.replace_column(title, cells)
    assert table.column(title) == cells


def describe_name(name: str) -> str:
    fault = find_filename_fault(name)
    if fault is not None:
        return f"refused: {fault}".replace("|", "\\|")
    return "same" if make_fallback(name) == name else show(make_fallback(name))


def extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def test_the_document_has_fifty_names_and_what_becomes_of_them() -> None:
    check_column(Table("names"), "name", [show(name) for name in NAMES])
    check_column(Table("names"), "`filename=`", [describe_name(name) for name in NAMES])
    assert len(set(NAMES)) == 50


def test_a_client_saves_each_name_as_the_document_says(
    store: Store, client: tuple[str, Save], tmp_path: Path
) -> None:
    title, save = client
    key = new_key()
    store.put_object(key, CONTENT)
    names = {
        name: saved_name(save, store.download(key, filename=name).url, tmp_path / str(number))
        for number, name in enumerate(SENT_NAMES)
    }
    cells = ["" if name not in names else describe_saved(name, names[name]) for name in NAMES]
    check_column(Table("names"), title, cells)
    for name, saved in names.items():
        if (title, len(name.encode()) > MAX_SHOWN) != ("wget", True):  # wget cuts a long name
            assert find_filename_fault(saved) is None, name
            assert extension(saved) == extension(name) or not extension(name).isascii(), name


def describe_saved(name: str, saved: str) -> str:
    if saved == name:
        return "same"
    size = len(os.fsencode(saved))
    if size > MAX_SHOWN:
        return f"cut to {size} bytes"
    return "`filename=`" if saved == make_fallback(name) else show(saved)


def test_the_document_has_fifty_types_and_what_a_wildcard_makes_of_them() -> None:
    check_column(Table("types"), "type", [show(name) for name in TYPES])
    check_column(Table("types"), "behind a wildcard", [describe_type(name) for name in TYPES])
    assert len(set(TYPES)) == 50


def test_the_document_has_the_types_that_a_wildcard_includes() -> None:
    families: dict[str, list[str]] = {}
    for name in sorted(INERT_TYPES):
        family, _, subtype = name.partition("/")
        families.setdefault(f"`{family}/*`", []).append(f"`{subtype}`")
    table = Table("wildcards", RULES)
    check_column(table, "wildcard", list(families))
    check_column(table, "includes", [", ".join(names) for names in families.values()])


def describe_type(name: str) -> str:
    terms = Download(bucket="demo", expires_in=60, content_type=name)
    refusal = check_content_type(terms, WILDCARDS)
    if refusal is None:
        return "included"
    return "malformed" if refusal.code == "content_type_invalid" else "has to be named"


def inline_url(store: Store, key: str, content_type: str) -> str:
    """Return a link to show an object, also with types that the service refuses."""
    terms = {**DOWNLOAD, "inline": True, "content_type": content_type}
    return store.sign(terms, {"key": key}).url


def opens(tab: Tab, url: str) -> str:
    if not tab.visit(url):
        return "saves"
    return "**runs scripts**" if tab.evaluate("window.ran === true") else "shows"


def test_chromium_opens_each_type_as_the_document_says(store: Store, tab: Tab) -> None:
    key = new_key()
    store.put_object(key, PAGE)
    opened = {name: opens(tab, inline_url(store, key, name)) for name in {*TYPES, *INERT_TYPES}}
    check_column(Table("types"), "Chromium opens it", [opened[name] for name in TYPES])
    assert not [name for name in INERT_TYPES if "runs" in opened[name]]


def test_chromium_loads_each_type_as_a_script_as_the_document_says(store: Store, tab: Tab) -> None:
    page, key = new_key(), new_key()
    store.put_object(page, PAGE)
    store.put_object(key, b"export default 1")
    assert tab.visit(inline_url(store, page, "text/html"))
    loaded = {
        name: tab.loads_module(inline_url(store, key, name)) for name in {*TYPES, *INERT_TYPES}
    }
    cells = ["**loads it**" if loaded[name] else "refuses" for name in TYPES]
    check_column(Table("types"), "Chromium's `import`", cells)
    assert not [name for name in INERT_TYPES if loaded[name]]


def test_a_client_saves_what_it_is_not_told_to_show_whatever_its_type(
    store: Store, client: tuple[str, Save], tmp_path: Path
) -> None:
    title, save = client
    key = new_key()
    store.put_object(key, CONTENT)
    saved = {
        name: saved_name(save, attachment_url(store, key, name), tmp_path / str(number))
        for number, name in enumerate(TYPES)
    }
    cells = ["same" if saved[name] == "report.pdf" else show(saved[name]) for name in TYPES]
    check_column(Table("types"), f"{title} saves", cells)


def attachment_url(store: Store, key: str, content_type: str) -> str:
    terms = {**DOWNLOAD, "content_type": content_type, "filename": "report.pdf"}
    return store.sign(terms, {"key": key}).url


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/unknown"])
def test_chromium_runs_no_script_that_is_stored_under_an_active_type(
    store: Store, tab: Tab, content_type: str
) -> None:
    key = new_key()
    store.put_object(key, PAGE, ContentType=content_type)
    url = store.download(key).url
    assert send(get(url)).headers["content-type"] == "application/octet-stream"
    assert not tab.visit(url)
