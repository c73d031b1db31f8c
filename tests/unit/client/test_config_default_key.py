"""The key that `valetkey init` writes, which clients find without a setting."""

import json
from pathlib import Path
from typing import Any

import pytest

from valetkey import config
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import dump_private_key, generate_key, signing_public_key
from valetkey.dev_files import find_dev_file
from valetkey.errors import NotConfigured

REDIS = "redis://broker.test:6379/1"
KEY, OTHER = generate_key("acme/2026-11"), generate_key("acme/other")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of an account that has a key in its configuration folder."""
    (tmp_path / "config" / "valetkey").mkdir(parents=True)
    keyfiles.write_key_file(tmp_path / "config" / "valetkey" / "key.json", KEY)
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def loaded_key(folder: Path, environ: dict[str, str], **options: Any) -> str | None:
    loaded = config.load_config(options, environ, folder)
    return None if loaded.key is None else loaded.key.id


def write_dev_file(folder: Path, public_keys: dict[str, str]) -> None:
    (folder / ".valetkey").mkdir()
    content = {"broker_url": REDIS, "tenant": "acme", "public_keys": public_keys}
    (folder / ".valetkey" / "dev.json").write_text(json.dumps(content))


def test_a_brokers_url_is_the_only_setting(tmp_path: Path, environ: dict[str, str]) -> None:
    loaded = config.load_config({}, environ | {"VALETKEY_BROKER_URL": REDIS}, tmp_path)
    assert loaded.key is not None
    assert (loaded.key.id, loaded.tenant) == (KEY.id, "acme")


def test_it_is_in_the_home_folder_unless_xdg_says_otherwise() -> None:
    expected = Path("/home/a/.config/valetkey/key.json")
    assert keyfiles.default_key_path({"HOME": "/home/a"}) == expected
    assert keyfiles.default_key_path({"HOME": "/home/a", "XDG_CONFIG_HOME": "x"}) == expected
    assert keyfiles.default_key_path({}) is None


def test_each_other_setting_of_a_key_takes_precedence(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    other = dump_private_key(OTHER)
    keyfiles.write_key_file(tmp_path / "other.key", OTHER)
    assert loaded_key(tmp_path, environ, broker_url=REDIS, key=other) == OTHER.id
    for name, value in (("KEY", other), ("KEY_FILE", str(tmp_path / "other.key"))):
        settings = environ | {f"VALETKEY_{name}": value}
        assert loaded_key(tmp_path, settings, broker_url=REDIS) == OTHER.id


def test_it_is_not_used_for_another_tenant(tmp_path: Path, environ: dict[str, str]) -> None:
    assert loaded_key(tmp_path, environ, broker_url=REDIS, tenant="globex") is None
    assert loaded_key(tmp_path, environ, broker_url=REDIS, tenant="acme") == KEY.id


def test_a_running_dev_gets_it_only_if_it_accepts_it(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    write_dev_file(tmp_path, {KEY.id: signing_public_key(OTHER)})  # same name, another key
    assert loaded_key(tmp_path, environ) is None
    (tmp_path / "b").mkdir()
    write_dev_file(tmp_path / "b", {KEY.id: signing_public_key(KEY)})
    assert loaded_key(tmp_path / "b", environ) == KEY.id


def test_it_is_refused_if_others_may_read_it(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "config" / "valetkey" / "key.json").chmod(0o644)
    with pytest.raises(NotConfigured, match="other users have access to the key"):
        loaded_key(tmp_path, environ, broker_url=REDIS)


def test_a_folder_of_another_account_that_is_closed_stops_no_client(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)  # root, who may run the tests, is refused nothing
    assert find_dev_file({}, tmp_path) is None
    with pytest.raises(NotConfigured, match="no tenant is configured"):
        config.load_config({}, environ | {"VALETKEY_BROKER_URL": REDIS}, tmp_path)
