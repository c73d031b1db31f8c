from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.signing.disposition import content_disposition, is_valid_filename

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(is_valid_filename)


def read(header: str) -> str | None:
    message = Message()
    message["Content-Disposition"] = header
    return message.get_filename()


def test_without_a_name_storage_is_still_told_to_save() -> None:
    assert content_disposition(None) == "attachment"


def test_storage_is_told_to_show_only_where_that_was_asked() -> None:
    assert content_disposition("a.png", inline=True) == 'inline; filename="a.png"'


def test_a_plain_name_is_quoted() -> None:
    assert content_disposition("a b.pdf") == 'attachment; filename="a b.pdf"'


def test_another_name_travels_encoded_beside_a_plain_one() -> None:
    expected = "attachment; filename=\"Ubersicht.pdf\"; filename*=UTF-8''%C3%9Cbersicht.pdf"
    assert content_disposition("Übersicht.pdf") == expected


@given(NAMES)
def test_any_valid_name_is_one_header_line_of_ascii(name: str) -> None:
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()


@given(NAMES)
def test_any_valid_name_arrives_as_it_was(name: str) -> None:
    header = content_disposition(name)
    if "filename*" in header:
        header = f"attachment; {header[header.index('filename*') :]}"
    assert read(header) == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", "a\\b", 'a"b', "a\r\nb", "x" * 256, "a\u202eb", "\ud800"]
)
def test_what_is_no_file_name_is_told_apart(name: str) -> None:
    assert not is_valid_filename(name)
