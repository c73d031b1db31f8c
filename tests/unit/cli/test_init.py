import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from valetkey.cli.main import main
from valetkey.crypto import keyfiles
from worker.rules.tenant_config import TenantConfig
from worker.tenants.tenants_file import read_tenants_file


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def run_init(*options: str) -> Result:
    return CliRunner().invoke(main, ["init", "acme", "--bucket", "reports", *options])


def test_the_service_accepts_the_file_and_trusts_only_the_key(
    tmp_path: Path, config_home: Path
) -> None:
    assert run_init().exit_code == 0
    config = read_tenants_file(tmp_path / "tenants.toml")
    assert isinstance(config, TenantConfig), config
    tenant = config.tenants["acme"]
    (key,) = tenant.keys
    assert (tenant.trust, list(tenant.policies), len(tenant.quotas)) == ("keys", ["reports"], 1)
    assert config.buckets["reports"].bucket == "reports"
    path = config_home / "valetkey" / "key.json"
    assert keyfiles.read_key_file(path).id == f"acme/{key}"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_command_in_the_file_is_quoted_for_a_shell(tmp_path: Path) -> None:
    assert run_init("--out", "my tenants.toml").exit_code == 0
    text = (tmp_path / "my tenants.toml").read_text()
    assert "#     python -m worker apply 'my tenants.toml'\n" in text


def test_a_file_name_of_two_lines_adds_none_to_the_file(tmp_path: Path) -> None:
    assert run_init("--out", "a\nb.toml").exit_code == 0
    assert tomllib.loads((tmp_path / "a\nb.toml").read_text())["tenants"].keys() == {"acme"}


def test_the_private_key_is_not_in_the_file_or_in_the_output(
    tmp_path: Path, config_home: Path
) -> None:
    output = run_init().output + (tmp_path / "tenants.toml").read_text()
    key = keyfiles.read_key_file(config_home / "valetkey" / "key.json")
    assert str(key.signing_key.as_dict(private=True)["d"]) not in output


@pytest.mark.parametrize(
    ("existing", "other"),
    [("tenants.toml", "config/valetkey/key.json"), ("config/valetkey/key.json", "tenants.toml")],
)
def test_a_file_that_exists_stays_and_the_other_is_not_written(
    tmp_path: Path, existing: str, other: str
) -> None:
    (tmp_path / "config" / "valetkey").mkdir(parents=True)
    (tmp_path / existing).write_text("mine")
    result = run_init()
    assert result.exit_code == 2
    assert f"{existing} exists, and is not overwritten: choose another file" in result.stderr
    assert (tmp_path / existing).read_text() == "mine"
    assert not (tmp_path / other).exists()


def test_a_key_without_its_tenants_file_is_not_left_behind(config_home: Path) -> None:
    result = run_init("--out", "nowhere/tenants.toml")
    assert result.exit_code == 2
    assert "nowhere/tenants.toml: No such file or directory" in result.stderr
    assert not (config_home / "valetkey" / "key.json").exists()


def test_the_next_commands_set_what_the_client_does_not_find_by_itself(tmp_path: Path) -> None:
    lines = run_init("--key", "my key").stdout.splitlines()
    assert "  export VALETKEY_KEY_FILE='my key'" in lines
    assert any(line.startswith("  export VALETKEY_BROKER_URL=redis://") for line in lines)
    assert any(line.endswith(f"-m worker apply {tmp_path / 'tenants.toml'}") for line in lines)


@pytest.mark.parametrize("bucket", ["a", "a.b", "Reports", "reports-", "s3://reports"])
def test_a_bucket_name_that_s3_or_apply_refuses_is_refused(tmp_path: Path, bucket: str) -> None:
    result = CliRunner().invoke(main, ["init", "acme", "--bucket", bucket])
    assert result.exit_code == 2
    assert "a bucket has 3 to 63 characters" in result.stderr
    assert not (tmp_path / "tenants.toml").exists()


def test_the_file_is_toml_with_a_tenant_that_looks_like_a_number(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", "42", "--bucket", "007"]).exit_code == 0
    tables = tomllib.loads((tmp_path / "tenants.toml").read_text())
    assert (list(tables["tenants"]), list(tables["buckets"])) == (["42"], ["007"])
