from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.options import http_date
from worker.core.response_headers import GRAMMARS

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
