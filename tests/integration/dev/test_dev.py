import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.dev.conftest import CHECKOUT, RUNNING_SERVICE, SHELL, python_command
from tests.support.servers.programs import run_program
from tests.support.servers.waiting import is_running, wait_until
from valetkey import Client
from worker.dev.child_processes import StartFailed
from worker.dev.data_folder import service_environment
from worker.dev.dev_command import dev
from worker.dev.stack import Stack, run_command

pytestmark = pytest.mark.slow


@contextmanager
def run_dev(data: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "worker", "dev", "--data", str(data)]
    options: Any = {"cwd": CHECKOUT, "env": {**os.environ, **settings}, "text": True}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_dev_json(data: Path) -> dict[str, Any]:
    path = data / "dev.json"
    wait_until(path.exists, seconds=60)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_dev_json_has_the_stacks_addresses_and_only_its_owner_can_read_it(
    stack: Stack, data: Path
) -> None:
    path = data / "dev.json"
    shown = json.loads(path.read_text())
    assert shown == asdict(stack.info) | {"public_keys": shown["public_keys"]}
    assert stack.info.tenant == "acme"
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_secret_is_in_the_stacks_repr(stack: Stack) -> None:
    assert stack.info.s3_secret_key not in repr(stack)


def test_a_developers_credentials_stay_out_of_the_service(stack: Stack) -> None:
    assert stack.environ["AWS_SECRET_ACCESS_KEY"] == stack.info.s3_secret_key
    assert "AWS_PROFILE" not in stack.environ


def test_a_stack_uses_nothing_of_the_service_that_its_shell_is_set_up_for(
    stack: Stack, data: Path
) -> None:
    assert RUNNING_SERVICE.items().isdisjoint(stack.environ.items())
    assert stack.environ["VALETKEY_DATABASE_URL"] == f"sqlite:///{data / 'valetkey.db'}"
    assert stack.environ["VALETKEY_CONCURRENCY"] == "3"


def test_a_developers_celery_stays_out_of_the_service() -> None:
    environ = service_environment(
        {"CELERY_BROKER_URL": "redis://elsewhere", "LANG": "C"}, VALETKEY_X="1"
    )
    assert "CELERY_BROKER_URL" not in environ
    assert (environ["LANG"], environ["VALETKEY_X"]) == ("C", "1")


def test_a_command_that_fails_is_reported_with_its_output() -> None:
    with pytest.raises(StartFailed, match="failed:\nno tenants here"):
        run_command(python_command("raise SystemExit('no tenants here')"), SHELL)


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/db", "sqlite://"])
def test_dev_refuses_the_url_of_no_database_before_it_starts_anything(
    tmp_path: Path, url: str
) -> None:
    data = tmp_path / "data"
    result = CliRunner().invoke(dev, ["--data", str(data), "--database", url])
    assert (result.exit_code, "'--database'" in result.stderr) == (2, True), result.output
    assert not data.exists()


def test_dev_serves_a_grant_and_stops_with_everything_on_ctrl_c(tmp_path: Path) -> None:
    other = {"VALETKEY_DATABASE_URL": f"sqlite:///{tmp_path / 'other.db'}"}
    with run_dev(tmp_path, **other) as process:
        info = read_dev_json(tmp_path)
        urls = info["broker_url"], info["result_url"]
        with Client(*urls, tenant=info["tenant"], requested_by="test") as client:
            grant = client.download("demo", "acme/hello.txt").result(timeout=20)
        assert grant.url.startswith(f"{info['s3_endpoint']}/valetkey-demo/acme/hello.txt?")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=40)
    assert (process.returncode, stderr) == (0, "")
    assert "Everything is up." in stdout
    assert "This shell sets VALETKEY_DATABASE_URL: dev does not use" in stdout
    assert not (tmp_path / "other.db").exists()
    assert stdout.endswith("Everything is stopped.\n")
    assert not any(map(is_running, info["pids"].values()))
    assert not (tmp_path / "dev.json").exists()


def test_the_commands_that_dev_prints_can_be_pasted(tmp_path: Path) -> None:
    with run_dev(tmp_path / "my data") as process:
        read_dev_json(tmp_path / "my data")
        assert process.stdout is not None
        text = "".join(itertools.takewhile(lambda line: line[0] != "`", process.stdout))
        commands = text.partition("Try in a second terminal, in this folder:\n")[2].strip()
        environ = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
        shell = ["/bin/sh", "-e", "-c", commands]
        completed = run_program(shell, cwd=CHECKOUT, env=environ)
    assert len(commands.splitlines()) == 3
    assert completed.returncode == 0, completed.stderr


def test_dev_that_loses_its_worker_reports_it_and_stops_the_other_processes(tmp_path: Path) -> None:
    with run_dev(tmp_path) as process:
        info = read_dev_json(tmp_path)
        os.kill(info["pids"]["worker"], signal.SIGKILL)
        _, stderr = process.communicate(timeout=40)
    assert process.returncode == 1
    assert stderr.startswith("Error: worker ended unexpectedly (exit code -9): see ")
    assert not any(map(is_running, info["pids"].values()))
    assert not (tmp_path / "dev.json").exists()
