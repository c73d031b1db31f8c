"""`doctor` sends one signed request to the storage of each bucket profile."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.cli.live_doctor import store_profiles
from tests.support.fakes.socket_server import running_socket_server, stay_silent
from worker.commands.health import storage_checks
from worker.commands.health.doctor import doctor
from worker.core.tenants.config import Bucket
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage

SECRET_KEY = "not-a-secret-but-nobody-may-print-it"


@pytest.fixture(params=["seaweed", "ministack"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Storage with the bucket `doctor-real`, whose keys are those of the environment."""
    storage: Storage = request.getfixturevalue(request.param)
    create_buckets(storage.client(), {"doctor-real"})
    use_keys(monkeypatch, storage.access_key, storage.secret_key)
    return storage


def use_keys(monkeypatch: pytest.MonkeyPatch, access_key: str, secret_key: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)


def profile(endpoint: str, bucket: str = "doctor-real", name: str = "demo") -> Bucket:
    return Bucket(name, bucket, "us-east-1", "path", endpoint)


def bucket_checks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *buckets: Bucket, offline: bool = False
) -> list[dict[str, Any]]:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", store_profiles(folder, *buckets))
    monkeypatch.setenv("VALETKEY_BROKER_URL", "redis://127.0.0.1:1/0")
    arguments = ["--json", *(["--offline"] if offline else [])]
    result = CliRunner().invoke(doctor, arguments)
    assert SECRET_KEY not in result.output
    checks = [json.loads(line) for line in result.stdout.splitlines()]
    return [check for check in checks if check["check"] == "buckets"]


def test_valid_credentials_are_accepted(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = bucket_checks(tmp_path, monkeypatch, profile(storage.endpoint))
    assert check["state"] == "ok"
    text = "demo: storage accepts the credentials for doctor-real (1 request)"
    assert check["message"].startswith(text)


def test_an_unknown_access_key_is_named(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, "AKIAUNKNOWN", SECRET_KEY)
    (check,) = bucket_checks(tmp_path, monkeypatch, profile(storage.endpoint))
    assert check["state"] == "fail"
    assert "storage does not know the access key of AWS profile 'default'" in check["message"]
    assert check["hint"] == "replace the keys where the workers run, and restart them"


def test_a_wrong_secret_key_is_named(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, storage.access_key, SECRET_KEY)
    (check,) = bucket_checks(tmp_path, monkeypatch, profile(storage.endpoint))
    assert check["state"] == "fail"
    assert "the secret key of AWS profile 'default' is wrong" in check["message"]
    assert "AWS_SECRET_ACCESS_KEY" in check["hint"]


def test_a_missing_bucket_is_named(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = bucket_checks(tmp_path, monkeypatch, profile(storage.endpoint, "doctor-missing"))
    assert (check["state"], check["message"]) == (
        "fail",
        "demo: storage has no bucket doctor-missing",
    )
    assert "[buckets.demo]" in check["hint"]


def test_the_internal_endpoint_is_tried(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = replace(profile("http://127.0.0.1:1"), internal_endpoint=storage.endpoint)
    (check,) = bucket_checks(tmp_path, monkeypatch, bucket)
    assert check["state"] == "ok"


def test_a_token_that_is_not_valid_is_named(
    ministack: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, ministack.access_key, ministack.secret_key)
    create_buckets(ministack.client(), {"doctor-real"})
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET_KEY)
    (check,) = bucket_checks(tmp_path, monkeypatch, profile(ministack.endpoint))
    assert (check["state"], "session token" in check["message"]) == ("fail", True)


def test_a_wrong_region_is_named(
    ministack: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, ministack.access_key, ministack.secret_key)
    create_buckets(ministack.client(), {"doctor-real"})
    bucket = replace(profile(ministack.endpoint), region="eu-west-3")
    (check,) = bucket_checks(tmp_path, monkeypatch, bucket)
    assert check["state"] == "fail"
    assert "is not in the region eu-west-3" in check["message"]
    assert "write region = " in check["hint"]


def test_a_clock_that_differs_is_named(
    seaweed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, seaweed.access_key, seaweed.secret_key)
    monkeypatch.setattr("worker.clock.now", lambda: datetime.now(UTC) - timedelta(seconds=450))
    (check,) = bucket_checks(tmp_path, monkeypatch, profile(seaweed.endpoint))
    assert check["state"] == "fail"
    words = "this machine's clock is 7 minutes [0-9]+ seconds? behind storage's"
    assert re.search(words, check["message"])


def test_storage_that_is_away_is_a_warning_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, "AKIDEXAMPLE", SECRET_KEY)
    monkeypatch.setattr(storage_checks, "_IDLE_SECONDS", 0.2)
    hosts = ("http://127.0.0.1:1", "http://no-such-host.invalid")
    with running_socket_server(stay_silent) as silent:
        buckets = [profile(url, name=f"b{n}") for n, url in enumerate((*hosts, silent))]
        checks = bucket_checks(tmp_path, monkeypatch, *buckets)
    assert [check["state"] for check in checks] == ["warn"] * 3
    causes = [check["message"].rpartition("are signed: ")[2] for check in checks]
    assert causes == [
        "nothing listens at this host and port (connection refused)",
        "its host name cannot be resolved",
        "it does not respond in time",
    ]


def test_missing_credentials_are_a_failure(
    seaweed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    (check,) = bucket_checks(tmp_path, monkeypatch, profile(seaweed.endpoint))
    assert check["state"] == "fail"
    assert "no credentials of AWS profile 'default'" in check["message"]


def test_no_request_is_sent_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_keys(monkeypatch, "AKIDEXAMPLE", SECRET_KEY)
    bucket = profile("http://127.0.0.1:1")
    (check,) = bucket_checks(tmp_path, monkeypatch, bucket, offline=True)
    assert check["state"] == "ok"
    assert "--offline" in check["message"]
