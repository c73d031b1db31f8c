import re
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from valetkey.signing.response_headers import (
    GRAMMARS,
    MAX_FILENAME_BYTES,
    content_disposition,
    find_filename_fault,
)
from valetkey.wire.options import http_date

# Look-alikes of what a file name must not contain, and what NFKD turns into ASCII.
_TRICKY = (
    '/\\":;*?<>|%=,.~ \t\0\r\n'
    "\uff02\uff0f\uff3c\uff1a\uff1b\uff0e\uff05\uff1d\uff0c\uff5e\u3000\u00a0"
    "\u2024\u2025\u2026\u2044\u2215\u29f8\u2216\u202e\u200b\u200c\u200d\ufeff\u0301\u0338"
    "\u037e\u1fef\u212a\u017f\uff45\uff58\uff43\uff4f\uff4e\u00bd\u2116\ufdfa\ufb03\u00aa\u2488"
)
_ANY_TEXT = st.text(st.sampled_from(_TRICKY) | st.characters(), max_size=40)
_TRICKY_BUT_VALID = "".join(
    character for character in _TRICKY if find_filename_fault(f"a{character}b") is None
)
_VALID_TEXT = st.text(
    st.sampled_from(_TRICKY_BUT_VALID) | st.characters(categories=["L", "M", "N", "P", "S"]),
    max_size=40,
)
_TEXT = _ANY_TEXT | _VALID_TEXT
_EXTENSIONS = st.sampled_from(["", ".pdf", ".exe", ".tar.gz", ".\uff45\uff58\uff45", ".e\u0301xe"])
TEXTS = st.builds("{}{}".format, _TEXT, _EXTENSIONS)

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_QUOTED = r'"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*)"'
_EXT_VALUE = r"UTF-8''((?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})*)"
_PARAM = re.compile(rf"; (?:filename={_QUOTED}|filename\*={_EXT_VALUE})")


class Disposition(NamedTuple):
    kind: str
    filename: str | None
    exact: str | None

    @property
    def name(self) -> str | None:
        """The name that a client takes which follows RFC 6266, section 4.3."""
        return self.filename if self.exact is None else self.exact


def parse(header: str) -> Disposition:
    """Parse by the grammar of RFC 6266 and RFC 8187; fail on anything that is not in it."""
    start = re.match(_TOKEN, header)
    assert start is not None
    kind, position = start[0], start.end()
    values: dict[str, str] = {}
    while position < len(header):
        param = _PARAM.match(header, position)
        assert param is not None, header[position:]
        name = "filename" if param[1] is not None else "exact"
        assert name not in values, "the parameter is doubled"
        values[name] = re.sub(r"\\(.)", r"\1", param[1]) if param[1] is not None else param[2]
        position = param.end()
    exact = values.get("exact")
    return Disposition(
        kind, values.get("filename"), None if exact is None else unquote(exact, errors="strict")
    )


def extension(name: str) -> str:
    return name.rpartition(".")[2] if "." in name else ""


@pytest.mark.parametrize(
    ("name", "inline", "header"),
    [
        (None, False, "attachment"),
        ("a b (1).pdf", False, 'attachment; filename="a b (1).pdf"'),
        ("a.png", True, 'inline; filename="a.png"'),
    ],
)
def test_a_plain_filename_is_quoted(name: str | None, header: str, *, inline: bool) -> None:
    assert content_disposition(name, inline=inline) == header


@pytest.mark.parametrize(
    ("name", "fallback"),
    [
        ("Übersicht.pdf", "Ubersicht.pdf"),
        ("re\u0301sume\u0301.txt", "resume.txt"),
        ("50%25 off; a=b.txt", "50_25 off_ a_b.txt"),
        ("四半期報告書.xlsx", "download.xlsx"),
        ("-rf.pdf", "rf.pdf"),
        ("invoice.exe\uff02.pdf", "invoice.exe_.pdf"),
        ("invoice.pdf\u2024exe", "invoice.pdf_exe"),
        ("a.\uff45\uff58\uff45", "a.___"),
        ("a.e\u0301xe", "a.e_xe"),
        ("a\uff0fb\uff3cc.pdf", "a_b_c.pdf"),
        ("CO\u0145.txt", "_CON.txt"),  # the accent goes, and a device remains
        ("\u2026und.pdf", "_und.pdf"),
    ],
)
def test_a_filename_beyond_plain_ascii_has_a_safe_fallback(name: str, fallback: str) -> None:
    assert parse(content_disposition(name)) == ("attachment", fallback, name)


@given(TEXTS)
@example("½" * 115 + ".pdf")
@example("\ufdfa" * 78 + ".docx")
def test_any_text_is_refused_or_sent_exactly_with_a_safe_fallback(text: str) -> None:
    if find_filename_fault(text) is not None:
        return
    header = content_disposition(text)
    parsed = parse(header)
    assert parsed.name == text
    fallback = parsed.filename or ""
    assert re.fullmatch(r"[A-Za-z0-9 ()+.@_-]{1,255}", fallback)
    assert find_filename_fault(fallback) in {None, find_filename_fault("x" * 255)}
    assert not fallback.startswith("-")
    if re.fullmatch("[A-Za-z0-9 ()+@_-]*", extension(text)):
        assert extension(fallback) == extension(text)
    else:  # no extension that a program would open is made of one that is none
        assert "_" in extension(fallback)


@pytest.mark.parametrize(
    "name",
    [
        "report.pdf",
        "-rf.pdf",
        "100%",
        "50%25 off; a=b, c'd.txt",
        "re\u0301sume\u0301.txt",
        "रिपोर्ट.pdf",
        "क्\u200dष.pdf",  # a joiner after a mark
        "می\u200cشود.pdf",
        "四半期報告書\uff08最終\uff09.xlsx",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467.png",
        "\u2764\ufe0f\u200d\U0001f525.png",  # a joiner after a variation selector
        "invoice.exe\uff02.pdf",
        "\u2026und dann.pdf",
        "\U0001fae9.pdf",  # of a Unicode version after that of Python 3.11
        "a\ue000.pdf",
        "CONtract.pdf",
        "com10.txt",
        "a..b.pdf",
        "漢" * (MAX_FILENAME_BYTES // 3),
    ],
)
def test_a_name_in_any_script_has_no_fault(name: str) -> None:
    assert find_filename_fault(name) is None


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "not empty"),
        ("x" * (MAX_FILENAME_BYTES + 1), "236 bytes"),
        ("漢" * (MAX_FILENAME_BYTES // 3 + 1), "236 bytes"),
        *((f"a{character}b.pdf", "characters /") for character in '/\\":*?<>|'),
        ("a\r\nb", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("gpj.\u202eexe", "control"),
        ("a\u200bb", "control"),
        ("a\u200db.pdf", "control"),  # no joiner between Latin letters
        ("क\u200c", "control"),
        ("\u200cक", "control"),
        ("क\u200c\u200cक", "control"),
        ("\U0001f3f4\U000e0067\U000e007f", "control"),  # tags can hide any text
        ("\ud800", "control"),
        ("a\ufffe", "control"),
        ("a\ufdd0", "control"),
        (" a", "begins"),
        ("a\u3000", "begins"),
        (".", "begins"),
        (".htaccess", "begins"),
        ("~a", "begins"),
        ("invoice.exe.", "begins"),
        ("nul", "device"),
        ("Com1 .tar.gz", "device"),
        ("lpt\u00b9.pdf", "device"),
        ("\uff23\uff2f\uff2e.pdf", "device"),
        ("CONIN$", "device"),
        ("\uff0e\uff0e\uff0f.ssh", "path"),
        ("\u2025\u2215\u2025\u2215a", "path"),
        ("a\u2044\u2024\u2024\u29f8b", "path"),
        ("a\uff3c\uff0e\uff0e\uff3cb", "path"),
        ("%2Ebashrc", "percent"),
        ("a%252Fb", "percent"),
        ("a%ff", "percent"),
    ],
)
def test_a_faulty_name_is_told_by_the_rule_that_it_breaks(name: str, rule: str) -> None:
    assert rule in (find_filename_fault(name) or "")


VALID = [
    ("cache_control", "no-store"),
    ("cache_control", "private, max-age=3600"),
    ("cache_control", 'public,max-age=0,no-cache="set-cookie, x \\" y",s-maxage=1'),
    ("content_language", "de"),
    ("content_language", "en-GB, zh-Hant-TW"),
    ("content_language", "x-klingon"),
    *(("content_encoding", name) for name in ("gzip", "br", "zstd", "deflate", "identity")),
    ("content_encoding", "gzip, br"),
    ("expires", "Tue, 01 Dec 2026 16:00:00 GMT"),
    ("expires", "Thu, 29 Feb 2024 23:59:59 GMT"),
]
INVALID = [
    *((name, value) for name in GRAMMARS for value in ("", " ", "a\tb", "é", "x, ", ",x", "x,,y")),
    *((name, f"{value} ") for name, value in VALID),
    ("cache_control", "max-age=3600; private"),
    ("cache_control", "max-age=1 2"),
    ("cache_control", 'no-cache="open'),
    ("cache_control", "=1"),
    ("content_language", "english_GB"),
    ("content_language", "toolongsubtag"),
    ("content_language", "*"),
    ("content_encoding", "aws-chunked"),
    ("content_encoding", "gzip, aws-chunked"),
    ("content_encoding", "rar"),
    ("content_encoding", "GZIP"),
    ("expires", "garbage"),
    ("expires", "Mon, 01 Dec 2026 16:00:00 GMT"),
    ("expires", "Tue, 1 Dec 2026 16:00:00 GMT"),
    ("expires", "Tue, 01 Dec 2026 16:00:00 +0000"),
    ("expires", "Tue Dec  1 16:00:00 2026"),
    ("expires", "Wed, 29 Feb 2023 00:00:00 GMT"),
    ("expires", "Sat, 01 Jan 0000 00:00:00 GMT"),
]


@pytest.mark.parametrize(("name", "value"), VALID)
def test_a_header_in_its_grammar_is_valid(name: str, value: str) -> None:
    assert GRAMMARS[name].is_valid(value)


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_a_header_outside_of_its_grammar_is_invalid(name: str, value: str) -> None:
    assert not GRAMMARS[name].is_valid(value)


@given(st.datetimes(datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_every_date_that_a_client_formats_is_valid(moment: datetime) -> None:
    assert GRAMMARS["expires"].is_valid(http_date(moment))
