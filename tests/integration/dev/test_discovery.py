"""Commands without settings find a running `dev`; `dev status` describes it."""

import json
import os
from pathlib import Path

import pytest

from tests.acceptance.conftest import storage_client
from tests.integration.dev.conftest import CHECKOUT, EXAMPLE
from tests.support.servers.programs import Completed, run_worker
from valetkey.crypto.keys import generate_key, public_key_line
from worker.dev.stack import Stack

pytestmark = pytest.mark.usefixtures("stack")
SAYS = "Using the service of `python -m worker dev` in "


def run(folder: Path, *words: str, **environ: str) -> Completed:
    environ = {"PATH": os.defpath, "PYTHONPATH": str(CHECKOUT)} | environ
    return run_worker(*words, cwd=folder, env=environ)


def test_a_command_in_a_subfolder_uses_the_running_dev_and_says_so(folder: Path) -> None:
    (folder / "below").mkdir()
    result = run(folder / "below", "quota", "show")
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"{SAYS}{folder / '.valetkey'}.\n"


def test_a_program_that_reads_json_gets_no_other_line(folder: Path) -> None:
    result = run(folder, "audit", "list", "--json")
    assert (result.returncode, result.stdout) == (0, "")
    assert SAYS not in result.stderr


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL", "RESULT_URL", "S3_ENDPOINT"])
def test_an_explicit_setting_is_never_shadowed(folder: Path, tmp_path: Path, name: str) -> None:
    urls = {"DATABASE_URL": f"sqlite:///{tmp_path / 'x.db'}", "S3_ENDPOINT": "http://127.0.0.1:1"}
    url = urls.get(name, "redis://127.0.0.1:1/0")
    result = run(folder, "workers", **{f"VALETKEY_{name}": url})
    assert result.returncode == 1  # there is no broker at the default address, or none at the URL
    assert SAYS not in result.stderr


def test_run_and_migrate_do_not_use_a_running_dev(folder: Path, tmp_path: Path) -> None:
    result = run(tmp_path, "migrate", VALETKEY_DATA_DIR=str(folder / ".valetkey"))
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / ".valetkey" / "valetkey.db").exists()


def test_a_data_folder_without_a_running_dev_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, "audit", "list", VALETKEY_DATA_DIR=str(tmp_path))
    assert result.returncode == 1
    assert f"-m worker dev` runs in {tmp_path}" in result.stderr


def test_the_file_of_a_dev_that_was_killed_is_not_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".valetkey").mkdir()
    (tmp_path / ".valetkey" / "lock").touch()
    content = (folder / ".valetkey" / "dev.json").read_text()
    (tmp_path / ".valetkey" / "dev.json").write_text(content)
    assert SAYS not in run(tmp_path, "audit", "list").stderr


def test_applying_a_file_creates_its_buckets_and_tells_producers_its_keys(
    folder: Path, stack: Stack
) -> None:
    key = generate_key("acme/tour")
    example = EXAMPLE.read_text()
    bucket = '[buckets.more]\nbucket = "more"\nregion = "us-east-1"\naddressing = "path"\n'
    file = folder / "tenants.toml"
    file.write_text(f"{example}{bucket}[tenants.acme.keys]\n{public_key_line(key)}\n")
    result = run(folder, "apply", "--yes")
    assert result.returncode == 0, result.stderr
    assert 'acme has keys, and trust = "queue"' in result.stderr
    content = json.loads((folder / ".valetkey" / "dev.json").read_text())
    assert list(content["public_keys"]) == ["acme/tour"]
    buckets = storage_client(stack).list_buckets()["Buckets"]
    assert {bucket["Name"] for bucket in buckets} == {"more", "valetkey-demo"}
    status = json.loads(run(folder, "dev", "status", "--json").stdout)
    assert status["tenants_file"] == str(file)


def test_the_status_has_addresses_and_no_secret(folder: Path, stack: Stack) -> None:
    result = run(folder, "dev", "status")
    assert (result.returncode, result.stderr) == (0, "")
    for text in (stack.info.broker_url, stack.info.s3_endpoint, "acme, globex", "waiting messages"):
        assert text in result.stdout
    assert stack.info.s3_secret_key not in result.stdout


def test_the_status_of_a_dev_that_does_not_run_is_exit_1(tmp_path: Path) -> None:
    result = run(tmp_path, "dev", "status")
    assert (result.returncode, result.stdout) == (1, "")
    assert "dev is not running in .valetkey" in result.stderr
    result = run(tmp_path, "dev", "status", "--json")
    assert (result.returncode, json.loads(result.stdout)["running"]) == (1, False)
