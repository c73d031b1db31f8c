"""Wrong settings end every command that reads settings, before it does anything."""

import os
import sys
from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from click.testing import CliRunner, Result

from tests.integration.worker_cli.test_unusable_services import (
    BROKER_COMMANDS,
    DATABASE_COMMANDS,
    PASSWORD,
)
from tests.support.docs.command_lines import ROOT
from tests.support.features import needs
from tests.support.servers.programs import Completed, run_program
from worker.__main__ import main

LOGIN = f"valetkey:{PASSWORD}"
COMMANDS: dict[str, Sequence[str]] = {**DATABASE_COMMANDS, **BROKER_COMMANDS, "workers": ()}
REDIS = "redis://"
DATABASES = "sqlite:///PATH"
EMPTY = "it is set, but empty: write a value, or unset it"
# The variable, a wrong value, and what the message says to write.
WRONG: list[tuple[str, str, str]] = [
    ("BROKER_URL", f"amqp://{LOGIN}@host//", REDIS),
    ("RESULT_URL", "garbage", REDIS),
    ("BROKER_URL", f"redis://:{PASSWORD}@host:99999/0", "the port is a number from 1 to 65,535"),
    ("BROKER_URL", f"redis://:{PASSWORD}#x@host/0", "percent-encode special characters"),
    ("BROKER_URL", f"redis://:{PASSWORD}@/0", "it names no host"),
    ("BROKER_URL", f"redis://:{PASSWORD}@host/queue", "not a database number"),
    ("BROKER_URL", f"redis://a/0;redis://:{PASSWORD}@b/0", "it names one server"),
    ("RESULT_URL", f"redis://:{PASSWORD}@host/0?ssl_cert_reqs=none", "rediss://"),
    ("BROKER_URL", "", EMPTY),
    ("DATABASE_URL", f"mysql://{LOGIN}@host/valetkey", DATABASES),
    ("DATABASE_URL", f"postgresql+psycopg2://{LOGIN}@host/valetkey", "postgresql+psycopg://"),
    ("DATABASE_URL", f"postgresql://{LOGIN}@host:99999/valetkey", DATABASES),
    ("DATABASE_URL", f"postgresql://valetkey:{PASSWORD}@x@host/valetkey", "percent-encode"),
    ("DATABASE_URL", "valetkey.db", DATABASES),
    ("DATABASE_URL", f"postgresql://{LOGIN}@a:5432,b:5432/valetkey", "or of several hosts"),
    ("DATABASE_URL", f"postgresql://{LOGIN}@/valetkey?host=a,b&port=1", DATABASES),
    ("DATABASE_URL", "sqlite://valetkey.db", "three slashes"),
    ("DATABASE_URL", "sqlite://", "in memory"),
    ("S3_ENDPOINT", "s3.example.com", "http:// or https://"),
    ("S3_ENDPOINT", f"https://{LOGIN}@s3.example.com", "http:// or https://"),
    ("S3_ENDPOINT", "https://s3.example.com/path?query", "without user, path, query"),
    ("S3_ENDPOINT", "https://s3.example.com:70000", "http:// or https://"),
    ("STS_ENDPOINT", "ftp://sts.example.com", "http:// or https://"),
    ("IAM_ENDPOINT", "iam.example.com", "http:// or https://"),
    ("DEVELOPMENT", "maybe", "expected true or false"),
    ("SWEEP_SECONDS", "0", "a number of seconds above 0, at most 3600"),
    ("CONCURRENCY", "two", "a whole number of processes from 1 to 1024"),
    ("CONCURRENCY", "1025", "a whole number of processes from 1 to 1024"),
    ("AUDIT_ORIGIN", "a b", "without spaces, +"),
    ("AUDIT_ORIGIN", "example.com/", "a final slash"),
    ("AUDIT_CHECKPOINTS", f"ftp://{LOGIN}@host/x", "folders, s3://PROFILE/PREFIX"),
    ("AUDIT_CHECKPOINTS", f"https://{LOGIN}@host:six/x", "a webhook's URL is not valid"),
    ("AUDIT_CHECKPOINTS", "s3://Demo/x", "the name of a bucket profile"),
    ("AUDIT_CHECKPOINTS", "a,", "separated by commas"),
    ("AUDIT_CHECKPOINTS", "a, a", "it names a destination twice"),
    ("AUDIT_WEBHOOK_SECRET", f"whsec_{PASSWORD}", "env:NAME or file:PATH"),
    ("AUDIT_CHECKPOINT_SECONDS", "0", "from 1 to 2592000"),
]
# The features without which a setting is unknown.
_FEATURES = {"IAM_ENDPOINT": "revoke", "DEVELOPMENT": "webhooks"}


def case(name: str, value: str, expected: str) -> ParameterSet:
    feature = "proof" if name.startswith("AUDIT_") else _FEATURES.get(name, "core")
    return pytest.param(name, value, expected, marks=needs(feature))


def invoke(command: str, variables: Mapping[str, str]) -> Result:
    return CliRunner().invoke(main, [command, *COMMANDS[command]], env=variables)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("name", "value", "expected"), [*starmap(case, WRONG)])
def test_a_wrong_setting_is_named_with_what_to_write(name: str, value: str, expected: str) -> None:
    result = invoke("run", {f"VALETKEY_{name}": value})
    assert result.exit_code == 2
    assert f"VALETKEY_{name}: " in result.output
    assert expected in result.output
    assert "docs/reference/settings.md" in result.output
    assert PASSWORD not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() & main.commands.keys()))
def test_all_wrong_settings_are_named_at_once(command: str) -> None:
    names = ("BROKER_URL", "DATABASE_URL", "S3_ENDPOINT", "SWEEP_SECONDS", "CONCURRENCY")
    result = invoke(command, {f"VALETKEY_{name}": f"?{PASSWORD}" for name in names})
    assert result.exit_code == 2
    assert PASSWORD not in result.output
    assert all(f"VALETKEY_{name}: " in result.output for name in names)
    assert "VALETKEY_RESULT_URL" not in result.output  # its default depends on the broker's URL


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("contract", "--out"), marks=needs("contract")),
        pytest.param(("audit", "list", "--help"), marks=needs("audit")),
        ("--help",),
    ],
)
def test_what_needs_no_setting_works_with_wrong_ones(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    command += (str(tmp_path),) if command[-1] == "--out" else ()
    result = CliRunner().invoke(main, command, env={"VALETKEY_CONCURRENCY": "two"})
    assert result.exit_code == 0


def run_module(*words: str, **settings: str) -> Completed:
    environ = os.environ | {f"VALETKEY_{name}": value for name, value in settings.items()}
    return run_program([sys.executable, "-m", *words], env=environ)


@pytest.mark.parametrize("command", ["run", "migrate"])
def test_a_process_ends_before_it_starts_others(command: str) -> None:
    completed = run_module("worker", command, BROKER_URL=f"redis://:{PASSWORD}@host:0/0")
    assert (completed.returncode, completed.stdout) == (2, "")
    first, second, last = completed.stderr.splitlines()
    assert first == "Error: Nothing was done, because settings are wrong:"
    assert second.startswith("  VALETKEY_BROKER_URL: ")
    assert last.startswith("Next: ")


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("VALETKEY_BROKER", "VALETKEY_BROKER_URL"),
        ("VALETKEY_DATABSE_URL", "VALETKEY_DATABASE_URL"),
        ("VALETKEY_KEYFILE", "VALETKEY_KEY_FILE"),
        *((name, None) for name in ("VALETKEY_KEY_FILE", "VALETKEY_TENANT", "VALETKEY_DATA_DIR")),
        *((f"VALETKEY_{name}", None) for name in ("TEST_SEED", "SERVICE_HOST")),
        ("VALETKEY_PORT_6379_TCP_ADDR", None),
    ],
)
def test_a_misspelt_variable_is_a_warning_and_one_of_others_is_none(
    variable: str, suggestion: str | None, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'valetkey.db'}"
    result = invoke("migrate", {variable: PASSWORD, "VALETKEY_DATABASE_URL": url})
    warning = f"WARNING: {variable} is unknown: did you mean {suggestion}?\n"
    assert (result.exit_code, result.stderr) == (0, warning if suggestion else "")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_spelling_of_postgresql_means_its_driver(scheme: str, postgres_database: str) -> None:
    url = postgres_database.replace("postgresql+psycopg", scheme)
    result = invoke("migrate", {"VALETKEY_DATABASE_URL": url})
    assert (result.exit_code, result.stdout) == (0, "The database is up to date.\n")


def test_celery_names_wrong_settings_without_a_traceback() -> None:
    environ = {"DATABASE_URL": f"mysql://u:{PASSWORD}@h/x", "CONCURRENCY": "0"}
    result = run_module("celery", "-A", "worker.app", "worker", **environ)
    output = result.stdout + result.stderr
    assert result.returncode == 2
    assert "VALETKEY_DATABASE_URL: this database or driver is not supported" in output
    assert "VALETKEY_CONCURRENCY: expected a whole number" in output
    assert "Traceback" not in output
    assert PASSWORD not in output
