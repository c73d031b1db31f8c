import re

from pydantic import SecretStr

from tests.command_lines import ROOT
from worker.settings import Settings

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `VALETKEY_(\w+)` \| (.+?) \|", PAGE, re.MULTILINE))


def test_every_setting_is_documented_in_order_and_no_other() -> None:
    assert [name.lower() for name in ROWS] == list(Settings.model_fields)


def test_the_documented_defaults_are_those_of_the_code() -> None:
    written = {name.lower(): re.sub("^none: .*", "none", shown) for name, shown in ROWS.items()}
    assert {name: shown.strip("`") for name, shown in written.items()} == {
        name: _shown(field.default) for name, field in Settings.model_fields.items()
    }


def _shown(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return str(default).lower()
