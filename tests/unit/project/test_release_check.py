"""tools/release_check.py: what it finds in a changelog and in a README. It runs by itself in CI."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.support.docs.command_lines import ROOT
from tools.release_check import (
    ARCHIVED,
    CheckFailed,
    Checks,
    files_of,
    link_problems,
    newest_chapter,
    newest_release,
    require,
)
from valetkey.wire import RELEASE

UNRELEASED = "# Changelog\n\n## [Unreleased]\n{}\n## [0.1.0] - 2026-12-03\n\n- The first.\n"
PICTURE = f'<img src="https://cdn.example.com/valetkey@v{RELEASE}/docs/demo.svg">'
PAGES = f"https://example.com/valetkey/blob/v{RELEASE}"


def test_the_newest_release_is_that_of_the_first_dated_chapter() -> None:
    assert newest_release(UNRELEASED.format("- A fix."))[0] == "0.1.0"
    assert newest_release("## [Unreleased]\n")[0] is None


@pytest.mark.parametrize(("changes", "title"), [("", "[0.1.0]"), ("- A fix.", "[Unreleased]")])
def test_a_chapter_without_changes_is_not_the_newest(changes: str, title: str) -> None:
    assert newest_chapter(UNRELEASED.format(changes)).startswith(title)


def test_a_difference_is_named() -> None:
    require("0.1.0", "0.1.0", "pyproject.toml")
    with pytest.raises(CheckFailed, match=r"pyproject.toml: '0.1.0' expected, found '0.2.0'"):
        require("0.1.0", "0.2.0", "pyproject.toml")


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        (PICTURE, None),
        (f'{PICTURE}<a href="{PAGES}/docs/audit.md#erasure">', None),
        (f'{PICTURE}<a href="#user-content-start">', None),
        (f'{PICTURE}<a href="docs/audit.md">', "docs/audit.md is no absolute link"),
        (f'{PICTURE}<a href="{PAGES}/no.md">', f"{PAGES}/no.md: no such file in this checkout"),
        (
            '<img src="https://example.com/a.svg">',
            "https://example.com/a.svg is not of this release",
        ),
        ("", "it has no picture"),
    ],
)
def test_a_wrong_link_or_picture_is_named(html: str, problem: str | None) -> None:
    assert list(link_problems(html, ROOT)) == ([problem] if problem else [])


def test_the_files_of_an_archive_are_read() -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz") as tree:
        tree.add(ROOT / "LICENSE", "a/LICENSE")
    assert files_of(archive.getvalue()) == {"a/LICENSE": (ROOT / "LICENSE").read_bytes()}


def test_the_check_and_the_target_archive_the_same_files() -> None:
    assert f"RELEASED := {' '.join(ARCHIVED)}\n" in (ROOT / "Makefile").read_text()


def test_only_the_check_of_the_commit_is_left_out_between_releases(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    whole, between = (checks.all(between_releases=value) for value in (False, True))
    assert [check for check in whole if check not in between] == [checks.commit_is_the_release]
