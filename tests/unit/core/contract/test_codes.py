"""The page of refusal codes."""

import re

from valetkey.wire.refusals import UNAUTHENTICATED, Code
from worker.core.contract.codes import codes_page, read_codes


def test_every_code_has_a_meaning_and_a_topic() -> None:
    # The comment beside a code in valetkey/wire/refusals.py is its meaning.
    codes = read_codes()
    assert [item.code for item in codes] == [code.value for code in Code]
    assert [item.code for item in codes if not item.meaning or "noqa" in item.meaning] == []
    assert [item.code for item in codes if not item.topic] == []


def test_the_page_has_a_row_for_each_code_and_marks_those_of_plain_replies() -> None:
    rows = re.findall(r"^\| `(\w+)`( \*\(plain\)\*)? \| .+ \|$", codes_page(), re.MULTILINE)
    assert [code for code, _ in rows] == [code.value for code in Code]
    assert {code for code, plain in rows if plain} == {code.value for code in UNAUTHENTICATED}
