"""The page of refusal codes."""

from valetkey.wire.refusals import Code
from worker.contract.contract_command import read_codes


def test_every_code_has_a_meaning_and_a_topic() -> None:
    # The comment beside a code in valetkey/wire/refusals.py is its meaning.
    codes = read_codes()
    assert [item.code for item in codes] == [code.value for code in Code]
    assert [item.code for item in codes if not item.meaning or "noqa" in item.meaning] == []
    assert [item.code for item in codes if not item.topic] == []
