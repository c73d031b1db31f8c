import json
from pathlib import Path
from typing import Any

import pytest

from valetkey import config
from valetkey.errors import NotConfigured
from valetkey.redis_urls import redact_url

REDIS = "redis://user:s3cret@broker.test:6379/1"


def load(folder: Path, environ: dict[str, str] | None = None, **options: str) -> config.Config:
    return config.load_config(options, environ or {}, folder)


def write_dev_file(folder: Path, **settings: str) -> None:
    folder.mkdir(parents=True)
    urls = {"broker_url": "redis://dev.test", "result_url": "redis://dev.test/1"}
    content = urls | {"tenant": "demo", "pids": [1]} | settings
    (folder / "dev.json").write_text(json.dumps(content))


def test_options_take_precedence_over_the_environment(tmp_path: Path) -> None:
    environ = {"VALETKEY_BROKER_URL": "redis://other.test", "VALETKEY_TENANT": "other"}
    loaded = load(tmp_path, environ, broker_url=REDIS, tenant="acme")
    assert (loaded.broker_url, loaded.tenant) == (REDIS, "acme")


def test_every_setting_can_come_from_the_environment(tmp_path: Path) -> None:
    environ = {
        "VALETKEY_BROKER_URL": "amqp://mq.test",
        "VALETKEY_RESULT_URL": REDIS,
        "VALETKEY_TENANT": "acme",
        "VALETKEY_REQUESTED_BY": "nightly",
    }
    assert load(tmp_path, environ) == config.Config("amqp://mq.test", REDIS, "acme", "nightly")


@pytest.mark.parametrize(
    ("broker_url", "result_url"),
    [
        ("redis://h", "redis://h/1"),
        ("redis://h:6380/0", "redis://h:6380/1"),
        ("rediss://u:p@h/7?ssl_cert_reqs=none", "rediss://u:p@h/1?ssl_cert_reqs=none"),
    ],
)
def test_the_default_result_store_is_the_one_of_the_service(
    tmp_path: Path, broker_url: str, result_url: str
) -> None:
    assert load(tmp_path, broker_url=broker_url, tenant="acme").result_url == result_url


def test_a_running_dev_is_found_from_a_subfolder(tmp_path: Path) -> None:
    write_dev_file(tmp_path / ".valetkey")
    loaded = load(tmp_path / "a" / "b")
    assert (loaded.broker_url, loaded.result_url) == ("redis://dev.test", "redis://dev.test/1")
    assert loaded.tenant == "demo"


def test_a_running_dev_can_be_used_for_another_tenant(tmp_path: Path) -> None:
    write_dev_file(tmp_path / ".valetkey")
    assert load(tmp_path, {"VALETKEY_TENANT": "acme"}).tenant == "acme"


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({"VALETKEY_DATA_DIR": "/elsewhere"}, "VALETKEY_BROKER_URL.*python -m worker dev"),
        ({"VALETKEY_BROKER_URL": REDIS}, "a tenant without a key VALETKEY_TENANT"),
    ],
    ids=["another data folder", "a configured broker"],
)
def test_a_running_dev_is_ignored_and_the_error_names_the_next_steps(
    tmp_path: Path, environ: dict[str, str], error: str
) -> None:
    write_dev_file(tmp_path / ".valetkey")
    with pytest.raises(NotConfigured, match=error):
        load(tmp_path, environ)


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"'])
def test_a_broken_dev_file_is_named(tmp_path: Path, content: str) -> None:
    write_dev_file(tmp_path / ".valetkey")
    (tmp_path / ".valetkey" / "dev.json").write_text(content)
    with pytest.raises(NotConfigured, match="is not what `python -m worker dev` writes"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("urls", "error"),
    [
        ({"broker_url": REDIS, "result_url": "db+sqlite:///x"}, r"redis://.*not db\+sqlite://"),
        ({"broker_url": "amqp://mq.test"}, "set VALETKEY_RESULT_URL"),
    ],
)
def test_results_need_a_redis_server(tmp_path: Path, urls: dict[str, Any], error: str) -> None:
    with pytest.raises(NotConfigured, match=error):
        load(tmp_path, tenant="acme", **urls)


@pytest.mark.parametrize(
    "url", ["redis://:s3/cret@h", "redis://u:s3cret@h:s3cret", "s3cret", "redis://[s3cret"]
)
def test_an_invalid_url_is_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(NotConfigured, match="percent-encode") as raised:
        load(tmp_path, broker_url=url, tenant="acme")
    assert "s3" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "environ", "subject"),
    [
        ({"broker_url": "s3cret"}, {}, "the broker_url from the argument broker_url is not a URL"),
        (
            {"broker_url": "rediss://h?ssl_cert_reqs=no"},
            {"VALETKEY_BROKER_URL": REDIS},
            "the broker_url from the argument broker_url is not usable: its parameter ssl_cert",
        ),
        ({}, {"VALETKEY_BROKER_URL": "s3cret"}, "the broker_url from VALETKEY_BROKER_URL is not"),
        (
            {"broker_url": REDIS},
            {"VALETKEY_RESULT_URL": "s3cret"},
            "the result_url from VALETKEY_RESULT_URL is not a URL",
        ),
        ({}, {}, r"the result_url from the `python -m worker dev` of .*/\.valetkey is not a URL"),
        ({"result_url": "amqp://h"}, {}, r"not amqp:// \(from the argument result_url\): set"),
    ],
)
def test_an_error_about_a_url_names_where_it_came_from(
    tmp_path: Path, options: dict[str, str], environ: dict[str, str], subject: str
) -> None:
    write_dev_file(tmp_path / ".valetkey", result_url="s3cret")
    with pytest.raises(NotConfigured, match=subject) as caught:
        load(tmp_path, environ | {"VALETKEY_TENANT": "acme"}, **options)
    assert "s3cret" not in str(caught.value)


def test_the_repr_has_no_passwords(tmp_path: Path) -> None:
    assert "s3cret" not in repr(load(tmp_path, broker_url=REDIS, tenant="acme"))


@pytest.mark.parametrize(
    "url",
    [
        *("rediss://u:SE/CRET@h/0", "redis://:SE?CRET@h/0", "redis://:SE#CRET@h/0", "u:SECRET@h"),
        *("sentinel://:SECRET@a:1;sentinel://:SECRET@b:2", "postgresql://h/db?password=SE@CRET"),
    ],
)
def test_a_url_is_shown_without_any_part_of_a_password_even_if_it_is_not_percent_encoded(
    url: str,
) -> None:
    shown = redact_url(url)
    assert "SE" not in shown
    assert "CRET" not in shown
    assert redact_url("postgresql://u:p@ss@h:1/db?x=1") == "postgresql://h:1/db"


def test_the_default_requester_is_the_user_and_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/jobs/nightly.py"])
    monkeypatch.setenv("LOGNAME", "alice")
    assert load(tmp_path, broker_url=REDIS, tenant="acme").requested_by == "alice/nightly.py"
