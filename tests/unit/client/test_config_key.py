"""The key in the client's configuration, and the tenant that it sets."""

import json
from pathlib import Path
from typing import Any

import pytest

from valetkey import Client, config
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, signing_public_key
from valetkey.dev_files import find_dev_file
from valetkey.errors import NotConfigured

REDIS = "redis://broker.test:6379/1"
ACME, GLOBEX = generate_key("acme/2026-11"), generate_key("globex/2026-11")
OTHER = generate_key(ACME.id)
TEXT = dump_private_key(ACME)


def load(folder: Path, environ: dict[str, str] | None = None, **options: Any) -> config.Config:
    return config.load_config({"broker_url": REDIS} | options, environ or {}, folder)


def write_key(path: Path, key: PrivateKey) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    keyfiles.write_key_file(path, key)
    return path


def write_dev_file(folder: Path, **settings: Any) -> None:
    (folder / ".valetkey").mkdir()
    content = {"broker_url": REDIS, "tenant": "acme"} | settings
    (folder / ".valetkey" / "dev.json").write_text(json.dumps(content))


def key_of(loaded: config.Config) -> str | None:
    """Return the public half of a key that was found."""
    return None if loaded.key is None else signing_public_key(loaded.key)


KEY, OTHER_KEY, GLOBEX_KEY = map(signing_public_key, (ACME, OTHER, GLOBEX))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of an account for which `valetkey init` has written a key."""
    write_key(tmp_path / "config" / "valetkey" / "key.json", ACME)
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_the_key_option_is_a_text_or_the_path_of_a_file(tmp_path: Path) -> None:
    for key in (TEXT, f"\n {TEXT}\n", write_key(tmp_path / "acme.key", ACME)):
        assert key_of(load(tmp_path, key=key)) == KEY


def test_the_key_option_takes_precedence_over_the_environment(tmp_path: Path) -> None:
    environ = {"VALETKEY_KEY": dump_private_key(GLOBEX), "VALETKEY_KEY_FILE": "nowhere"}
    for key in (TEXT, write_key(tmp_path / "acme.key", ACME)):
        assert key_of(load(tmp_path, environ, key=key)) == KEY
    assert key_of(load(tmp_path, environ)) == GLOBEX_KEY


def test_empty_variables_configure_no_key(tmp_path: Path) -> None:
    environ = {"VALETKEY_KEY": "", "VALETKEY_KEY_FILE": ""}
    assert load(tmp_path, environ, tenant="acme").key is None


@pytest.mark.parametrize("environ", [{}, {"VALETKEY_TENANT": "globex"}])
def test_a_key_of_another_tenant_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    options = {} if environ else {"tenant": "globex"}
    text = "the key 'acme/2026-11' belongs to the tenant 'acme', not to 'globex'"
    with pytest.raises(NotConfigured, match=text):
        load(tmp_path, environ, key=TEXT, **options)


@pytest.mark.parametrize("text", ["/run/s3crets/acme.key", '{"keys": "s3cret"}'])
def test_what_is_no_key_is_refused_with_the_right_setting_and_not_repeated(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(NotConfigured, match=r"set VALETKEY_KEY_FILE or pass a pathlib\.Path") as no:
        load(tmp_path, {"VALETKEY_KEY": text})
    assert "s3cret" not in str(no.value)


def test_the_repr_of_a_config_and_of_a_client_have_no_secret(tmp_path: Path) -> None:
    text = repr(load(tmp_path, key=TEXT)) + repr(Client(REDIS, key=TEXT))
    assert not [half["d"] for half in json.loads(TEXT)["keys"] if half["d"] in text]


def test_a_key_takes_precedence_over_the_tenant_of_dev(tmp_path: Path) -> None:
    write_dev_file(tmp_path, result_url=REDIS)
    loaded = load(tmp_path, broker_url=None, key=dump_private_key(GLOBEX))
    assert (key_of(loaded), loaded.tenant) == (GLOBEX_KEY, "globex")


def test_with_the_key_of_init_a_brokers_url_is_the_only_setting(
    tmp_path: Path, home: dict[str, str]
) -> None:
    loaded = config.load_config({}, home | {"VALETKEY_BROKER_URL": REDIS}, tmp_path)
    assert (key_of(loaded), loaded.tenant) == (KEY, "acme")


def test_the_key_of_init_is_in_the_home_folder_unless_xdg_says_otherwise() -> None:
    expected = Path("/home/a/.config/valetkey/key.json")
    assert keyfiles.default_key_path({"HOME": "/home/a"}) == expected
    assert keyfiles.default_key_path({"HOME": "/home/a", "XDG_CONFIG_HOME": "x"}) == expected
    assert keyfiles.default_key_path({}) is None


def test_each_other_setting_of_a_key_takes_precedence_over_the_key_of_init(
    tmp_path: Path, home: dict[str, str]
) -> None:
    other, path = dump_private_key(OTHER), write_key(tmp_path / "other.key", OTHER)
    assert key_of(load(tmp_path, home, key=other)) == OTHER_KEY
    for name, value in (("KEY", other), ("KEY_FILE", str(path))):
        assert key_of(load(tmp_path, home | {f"VALETKEY_{name}": value})) == OTHER_KEY


def test_the_key_of_init_is_not_used_for_another_tenant(
    tmp_path: Path, home: dict[str, str]
) -> None:
    assert key_of(load(tmp_path, home, tenant="globex")) is None
    assert key_of(load(tmp_path, home, tenant="acme")) == KEY


@pytest.mark.parametrize("accepted", [OTHER, ACME], ids=["another of its name", "it"])
def test_a_running_dev_gets_the_key_of_init_only_if_it_accepts_it(
    tmp_path: Path, home: dict[str, str], accepted: PrivateKey
) -> None:
    write_dev_file(tmp_path, public_keys={ACME.id: signing_public_key(accepted)})
    assert key_of(load(tmp_path, home, broker_url=None)) == (KEY if accepted is ACME else None)


def test_the_key_of_init_is_refused_if_others_may_read_it(
    tmp_path: Path, home: dict[str, str]
) -> None:
    (tmp_path / "config" / "valetkey" / "key.json").chmod(0o644)
    with pytest.raises(NotConfigured, match="other users have access to the key"):
        load(tmp_path, home)


def test_a_folder_of_another_account_that_is_closed_stops_no_client(
    tmp_path: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)  # root, who may run the tests, is refused nothing
    assert find_dev_file({}, tmp_path) is None
    with pytest.raises(NotConfigured, match="no tenant is configured"):
        load(tmp_path, home)
