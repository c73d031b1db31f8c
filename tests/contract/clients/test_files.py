"""What curl, wget and Chromium make of file names and content types; the tables of docs/files.md.

VALETKEY_TEST_WRITE=1 writes the tables instead of comparing them.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.docs.file_tables import DOCUMENT, NAMES, TYPES, Table, show
from tests.support.s3.chromium import Tab
from tests.support.s3.http_requests import get, send
from tests.support.s3.stores import DOWNLOAD, Store, new_key
from valetkey.wire.terms import Download
from worker.core.policy_rules import INERT_TYPES, check_content_type
from worker.core.response_headers import find_filename_fault, make_fallback
from worker.core.tenant_config import Policy

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
    table = Table("wildcards")
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
