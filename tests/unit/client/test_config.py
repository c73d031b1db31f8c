import json
from pathlib import Path

import pytest

from valetkey import config
from valetkey.errors import NotConfigured

REDIS = "redis://user:s3cret@broker.test:6379/1"


def load(folder: Path, environ: dict[str, str] | None = None, **given: str) -> config.Config:
    return config.load(given, environ or {}, folder)


def dev_file(folder: Path, **settings: str) -> None:
    folder.mkdir(parents=True)
    found = {"broker_url": "redis://dev.test", "result_url": "redis://dev.test/1", "tenant": "demo"}
    (folder / "dev.json").write_text(json.dumps(found | {"pids": [1]} | settings))


def test_what_is_given_goes_before_the_environment(tmp_path: Path) -> None:
    environ = {"VALETKEY_BROKER_URL": "redis://other.test", "VALETKEY_TENANT": "other"}
    found = load(tmp_path, environ, broker_url=REDIS, tenant="acme")
    assert (found.broker_url, found.tenant) == (REDIS, "acme")


def test_the_environment_says_it_all(tmp_path: Path) -> None:
    environ = {
        "VALETKEY_BROKER_URL": "amqp://mq.test",
        "VALETKEY_RESULT_URL": REDIS,
        "VALETKEY_TENANT": "acme",
        "VALETKEY_REQUESTED_BY": "nightly",
    }
    assert load(tmp_path, environ) == config.Config("amqp://mq.test", REDIS, "acme", "nightly")


@pytest.mark.parametrize(
    ("broker", "results"),
    [
        ("redis://broker.test", "redis://broker.test/1"),
        ("redis://broker.test:6380/0", "redis://broker.test:6380/1"),
        ("rediss://u:s3cret@broker.test/7?ssl_cert_reqs=none", None),
    ],
)
def test_answers_are_looked_for_where_the_service_puts_them_beside_its_broker(
    tmp_path: Path, broker: str, results: str | None
) -> None:
    found = load(tmp_path, broker_url=broker, tenant="acme").result_url
    assert found == (results or broker.replace("/7", "/1"))


def test_a_running_dev_is_found_from_a_folder_below(tmp_path: Path) -> None:
    dev_file(tmp_path / ".valetkey")
    found = load(tmp_path / "a" / "b")
    assert (found.broker_url, found.result_url) == ("redis://dev.test", "redis://dev.test/1")
    assert found.tenant == "demo"


def test_a_named_data_folder_is_the_only_one_looked_at(tmp_path: Path) -> None:
    dev_file(tmp_path / ".valetkey")
    with pytest.raises(NotConfigured):
        load(tmp_path, {"VALETKEY_DATA_DIR": str(tmp_path / "elsewhere")})


def test_a_running_dev_can_be_asked_for_another_tenant(tmp_path: Path) -> None:
    dev_file(tmp_path / ".valetkey")
    assert load(tmp_path, {"VALETKEY_TENANT": "acme"}).tenant == "acme"


def test_a_running_dev_is_ignored_where_a_broker_is_named(tmp_path: Path) -> None:
    dev_file(tmp_path / ".valetkey")
    with pytest.raises(NotConfigured, match="set VALETKEY_TENANT"):
        load(tmp_path, broker_url=REDIS)


def test_without_any_setting_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"VALETKEY_BROKER_URL.*python -m worker dev"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"'])
def test_a_broken_dev_file_is_named(tmp_path: Path, content: str) -> None:
    dev_file(tmp_path / ".valetkey")
    (tmp_path / ".valetkey" / "dev.json").write_text(content)
    with pytest.raises(NotConfigured, match="is not what `python -m worker dev` writes"):
        load(tmp_path)


def test_a_result_store_that_is_not_redis_is_refused_by_its_scheme(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"redis://.*not db\+sqlite://"):
        load(tmp_path, broker_url=REDIS, tenant="acme", result_url="db+sqlite:///x")


def test_a_broker_that_keeps_no_results_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match="set VALETKEY_RESULT_URL"):
        load(tmp_path, broker_url="amqp://mq.test", tenant="acme")


@pytest.mark.parametrize(
    "url", ["redis://:s3/cret@h", "redis://u:s3cret@h:s3cret", "s3cret", "redis://[s3cret"]
)
def test_a_url_that_cannot_be_read_is_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(NotConfigured, match="percent-encode") as caught:
        load(tmp_path, broker_url=url, tenant="acme")
    assert "s3" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_passwords_are_in_no_representation(tmp_path: Path) -> None:
    assert "s3cret" not in repr(load(tmp_path, broker_url=REDIS, tenant="acme"))


def test_a_url_is_shown_without_its_secrets() -> None:
    assert config.without_secrets(f"{REDIS}?password=s3cret") == "redis://broker.test:6379/1"


def test_the_requester_is_the_user_and_the_program_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/jobs/nightly.py"])
    monkeypatch.setenv("LOGNAME", "alice")
    assert load(tmp_path, broker_url=REDIS, tenant="acme").requested_by == "alice/nightly.py"
