import re

import pytest
from pydantic import SecretStr

from tests.support.docs.command_lines import ROOT
from worker.settings import Settings

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `VALETKEY_(\w+)` \| (.+?) \|", PAGE, re.MULTILINE))


def test_all_settings_are_documented_in_their_order() -> None:
    assert [name.lower() for name in ROWS] == list(Settings.model_fields)


def test_the_documented_defaults_are_those_of_the_code() -> None:
    documented = {name.lower(): re.sub("^none: .*", "none", cell) for name, cell in ROWS.items()}
    assert {name: cell.strip("`") for name, cell in documented.items()} == {
        name: _format_default(getattr(Settings(), name)) for name in Settings.model_fields
    }


@pytest.mark.parametrize(
    ("broker", "results"),
    [
        ("redis://queue.example.com:6380/0", "redis://queue.example.com:6380/1"),
        ("rediss://:s3cret@queue.example.com", "rediss://:s3cret@queue.example.com/1"),
        ("amqp://queue.example.com//", "redis://127.0.0.1:6379/1"),
    ],
)
def test_results_are_stored_beside_the_broker_by_default(broker: str, results: str) -> None:
    assert Settings(broker_url=SecretStr(broker)).result_url.get_secret_value() == results


def _format_default(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return str(default).lower()
