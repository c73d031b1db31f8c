from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.signing.disposition import content_disposition, is_valid_filename

FILENAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(is_valid_filename)


def parse_filename(header: str) -> str | None:
    message = Message()
    message["Content-Disposition"] = header
    return message.get_filename()


def test_without_a_filename_the_disposition_is_still_attachment() -> None:
    assert content_disposition(None) == "attachment"


def test_the_disposition_is_inline_only_if_requested() -> None:
    assert content_disposition("a.png", inline=True) == 'inline; filename="a.png"'


def test_an_ascii_filename_is_quoted() -> None:
    assert content_disposition("a b.pdf") == 'attachment; filename="a b.pdf"'


def test_another_filename_is_encoded_and_has_an_ascii_fallback() -> None:
    expected = "attachment; filename=\"Ubersicht.pdf\"; filename*=UTF-8''%C3%9Cbersicht.pdf"
    assert content_disposition("Übersicht.pdf") == expected


@given(FILENAMES)
def test_any_valid_filename_gives_one_header_line_of_ascii(name: str) -> None:
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()


@given(FILENAMES)
def test_any_valid_filename_is_parsed_back_unchanged(name: str) -> None:
    header = content_disposition(name)
    if "filename*" in header:
        header = f"attachment; {header[header.index('filename*') :]}"
    assert parse_filename(header) == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", "a\\b", 'a"b', "a\r\nb", "x" * 256, "a\u202eb", "\ud800"]
)
def test_an_invalid_filename_is_recognized(name: str) -> None:
    assert not is_valid_filename(name)
