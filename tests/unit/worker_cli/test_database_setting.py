"""The quick reading of the database's URL, compared with the settings that it stands for."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from tests.support.docs.command_lines import ROOT
from worker.cli.database import read_database_url
from worker.setting_names import PREFIX, SETTING_NAMES
from worker.settings import Settings

DATABASE = "postgres://valetkey:secret@db.example:5432/valetkey"
VALUES = {
    "BROKER_URL": ["redis://b:6379/0", "rediss://b", "redis://b/x", "amqp://b", "", " "],
    "RESULT_URL": ["redis://b:6379/1", "redis:///1", "redis://b:99999/1"],
    "DATABASE_URL": [DATABASE, "sqlite:///a.db", "sqlite://", "mysql://a/b", "postgres://a@b@c/d"],
    "S3_ENDPOINT": ["https://s3.example.com", "https://s3.example.com/", "s3.example.com"],
    "S3_INTERNAL_ENDPOINT": ["http://10.0.0.1:9000", "http://10.0.0.1:0"],
    "STS_ENDPOINT": ["https://sts.example.com", "https://sts.example.com:1:2"],
    "IAM_ENDPOINT": ["https://iam.example.com", "iam.example.com"],
    "DEVELOPMENT": ["true", "1", "0", "false", "yes", "maybe", "TRUE"],
    "SWEEP_SECONDS": ["1", "2.5", "3600", "3601", "0", "-1", "nan", "inf", "5s", "999.9"],
    "AUDIT_KEY_FILE": ["audit.key", "/etc/valetkey/audit.key", "", " "],
    "AUDIT_ORIGIN": ["audit.example.com/valetkey", "a b", "a+b", "a/", "", " "],
    "AUDIT_CHECKPOINTS": ["/srv/audit", "audit", "/a,/b", "s3://evidence/a", "ftp://a", "", "/"],
    "AUDIT_WEBHOOK_SECRET": ["env:SECRET", "file:/run/secret", "whsec_abc", ""],
    "AUDIT_CHECKPOINT_SECONDS": ["1", "60.5", "999", "3600", "2592001", "0", "nan"],
    "CONCURRENCY": ["1", "8", "1024", "1025", "0", "2.0", "two", "٣"],
}
CASES = [(name, value) for name, values in VALUES.items() for value in values]


def outcome(read: Callable[[], str]) -> str:
    try:
        return read()
    except ValidationError as error:
        return str(error)


def read_settings() -> str:
    return Settings().database_url.get_secret_value()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTING_NAMES:
        monkeypatch.delenv(PREFIX + name, raising=False)


def test_every_setting_has_its_name() -> None:
    assert {name.lower() for name in SETTING_NAMES} == set(Settings.model_fields)


def test_the_values_are_of_all_settings() -> None:
    assert set(VALUES) == set(SETTING_NAMES)


@pytest.mark.parametrize(("name", "value"), CASES)
@pytest.mark.parametrize("is_lower", [False, True])
def test_a_setting_is_read_or_refused_as_by_settings(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, *, is_lower: bool
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", DATABASE)
    variable = PREFIX + name
    monkeypatch.setenv(variable.lower() if is_lower else variable, value)
    assert outcome(lambda: read_database_url(os.environ)) == outcome(read_settings)


def test_without_variables_the_default_is_read() -> None:
    assert read_database_url({}) == read_settings()


def test_usual_values_need_no_pydantic() -> None:
    usual = {PREFIX + name: values[0] for name, values in VALUES.items()}
    program = f"""
import sys
from worker.cli.database import read_database_url
read_database_url({usual!r})
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
