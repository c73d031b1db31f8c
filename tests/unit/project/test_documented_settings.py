import json
import re
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from tests.support.docs.command_lines import ROOT
from worker.core.role_session import session_policy
from worker.core.sigv4 import ALGORITHM
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
        (
            "rediss://:s3cret@queue.example.com",
            "rediss://:s3cret@queue.example.com/1?ssl_cert_reqs=required",
        ),
        ("REDIS://queue.example.com/3", "redis://queue.example.com/1"),
    ],
)
def test_results_are_stored_beside_the_broker_by_default(broker: str, results: str) -> None:
    assert Settings(broker_url=SecretStr(broker)).result_url.get_secret_value() == results


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "3601"])
def test_an_interval_that_no_sweep_can_have_is_refused(seconds: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"sweep_seconds": seconds})


@pytest.mark.parametrize("name", ["broker_url", "result_url"])
def test_the_server_of_a_rediss_url_is_verified(name: str) -> None:
    settings = Settings.model_validate({name: "rediss://:s3cret@queue.example.com/0"})
    assert getattr(settings, name).get_secret_value().endswith("/0?ssl_cert_reqs=required")


def _format_default(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return str(default).lower()


SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
POLICIES: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"```json\n(.+?)```", SECURITY, re.DOTALL)
]
SESSION, SIGNER, TRUST, BUCKET, ENDING = POLICIES


def test_the_session_policy_is_the_one_of_the_code() -> None:
    role = TRUST["Statement"][0]["Principal"]["AWS"]
    assert json.loads(session_policy(role, "acme-reports", ("acme/",))) == SESSION


def test_the_signer_has_the_actions_of_a_session() -> None:
    assert SIGNER["Statement"][0]["Action"] == SESSION["Statement"][0]["Action"]


def test_the_bucket_accepts_the_signature_version_of_the_code() -> None:
    conditions = {statement["Sid"]: statement["Condition"] for statement in BUCKET["Statement"]}
    version = conditions["SignatureVersion4Only"]["StringNotEquals"]["s3:signatureversion"]
    assert version == ALGORITHM


def test_the_policy_that_ends_sessions_has_the_actions_that_the_code_calls() -> None:
    source = (ROOT / "worker" / "aws" / "role_policies.py").read_text(encoding="utf-8")
    methods = set(re.findall(r"\.((?:get|put|delete)_role(?:_policy)?)\b", source))
    actions = {"iam:" + method.title().replace("_", "") for method in methods}
    assert set(ENDING["Statement"][0]["Action"]) == actions
