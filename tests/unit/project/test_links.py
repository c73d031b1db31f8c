"""Every relative link in the documentation leads somewhere, and lock files name no host."""

import re
from pathlib import Path

import pytest

from tests.support.docs.command_lines import ROOT

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/*/*.md")),
]
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def heading_ids(page: Path) -> set[str]:
    """Return the ids that GitHub gives to the headings of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    broken = []
    for link in _LINK.findall(_CODE.sub("", text)):
        if ":" in link:
            continue  # another site
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in heading_ids(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_detected() -> None:
    text = "[a](nowhere.md) [`b`](#nothing) [c](https://example.com) [d](README.md#the-contract)"
    assert broken_links(ROOT / "README.md", text) == ["nowhere.md", "#nothing"]


LOCKS = [
    *ROOT.glob("*.lock"),
    ROOT / "examples" / "producers" / "package-lock.json",
    ROOT / "tests" / "acceptance" / "contract" / "package-lock.json",
    ROOT / "tests" / "acceptance" / "report" / "package-lock.json",
    ROOT / "tests" / "contract" / "package-lock.json",
]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_a_lock_file_names_hashes_and_no_host(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "sha256:" in text or '"integrity"' in text
    assert "://" not in text
