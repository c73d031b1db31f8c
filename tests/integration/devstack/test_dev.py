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

from tests.support.servers.waiting import is_running, wait_until
from valetkey import Client
from worker.devstack.folder import StorageKeys
from worker.devstack.processes import ProcessEnded, StartFailed
from worker.devstack.s3 import s3_client
from worker.devstack.service import Commands, run_command, service_environment
from worker.devstack.stack import Stack, running_stack

CHECKOUT = Path(__file__).parents[3]
TENANTS = CHECKOUT / "examples" / "tenants.toml"
SHELL = {"PATH": os.defpath, "AWS_PROFILE": "work", "AWS_SECRET_ACCESS_KEY": "a developer's own"}


def python(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


NOTHING = Commands(
    migrate=python(""),
    apply=python(""),
    worker=python("import time; time.sleep(600)"),
    beat=python("import time; time.sleep(600)"),
    answers=lambda _: True,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dev")


@pytest.fixture(scope="module")
def up(data: Path) -> Iterator[Stack]:
    """A stack whose worker does nothing."""
    with running_stack(data, TENANTS, SHELL, commands=NOTHING) as running:
        yield running


@contextmanager
def dev(data: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "worker", "dev", "--data", str(data)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def announced(data: Path) -> dict[str, Any]:
    path = data / "dev.json"
    wait_until(path.exists, seconds=60)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_dev_json_says_where_everything_is_to_its_owner_alone(up: Stack, data: Path) -> None:
    path = data / "dev.json"
    assert json.loads(path.read_text()) == asdict(up.running)
    assert up.running.tenant == "acme"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_declared_buckets_are_there(up: Stack) -> None:
    where = up.running
    s3 = s3_client(
        where.s3_endpoint, StorageKeys(where.s3_access_key, where.s3_secret_key), where.s3_region
    )
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["valetkey-demo"]


def test_nothing_secret_is_in_the_stacks_repr(up: Stack) -> None:
    assert up.running.s3_secret_key not in repr(up)


@pytest.mark.usefixtures("up")
def test_a_second_stack_on_the_folder_is_refused(data: Path) -> None:
    command = [sys.executable, "-m", "worker", "dev", "--data", str(data)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: {data} is in use by another `python -m worker dev`" in done.stderr


def test_a_developers_credentials_stay_out_of_the_service(up: Stack) -> None:
    assert up.environ["AWS_SECRET_ACCESS_KEY"] == up.running.s3_secret_key
    assert "AWS_PROFILE" not in up.environ


def test_a_developers_celery_stays_out_of_the_service() -> None:
    seen = service_environment(
        {"CELERY_BROKER_URL": "redis://elsewhere", "LANG": "C"}, VALETKEY_X="1"
    )
    assert "CELERY_BROKER_URL" not in seen
    assert (seen["LANG"], seen["VALETKEY_X"]) == ("C", "1")


def test_a_part_that_ends_by_itself_ends_the_watch(tmp_path: Path) -> None:
    with running_stack(tmp_path, TENANTS, SHELL, commands=NOTHING) as up:
        os.kill(up.running.pids["worker"], signal.SIGKILL)
        with pytest.raises(ProcessEnded, match=r"worker ended .*: see .*worker\.log"):
            up.watch()
    assert not any(map(is_running, up.running.pids.values()))
    assert not (tmp_path / "dev.json").exists()


def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(StartFailed, match="failed:\nno tenants here"):
        run_command(python("raise SystemExit('no tenants here')"), SHELL)


def test_dev_serves_a_grant_and_stops_with_everything_on_ctrl_c(tmp_path: Path) -> None:
    with dev(tmp_path) as process:
        where = announced(tmp_path)
        urls = where["broker_url"], where["result_url"]
        with Client(*urls, tenant=where["tenant"], requested_by="test") as asking:
            grant = asking.download("demo", "acme/hello.txt").result(timeout=20)
        assert grant.url.startswith(f"{where['s3_endpoint']}/valetkey-demo/acme/hello.txt?")
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=40)
    assert (process.returncode, complaints) == (0, "")
    assert "Everything is up." in said
    assert said.endswith("Everything is stopped.\n")
    assert not any(map(is_running, where["pids"].values()))
    assert not (tmp_path / "dev.json").exists()


def test_dev_that_loses_its_worker_says_so_and_stops_the_rest(tmp_path: Path) -> None:
    with dev(tmp_path) as process:
        where = announced(tmp_path)
        os.kill(where["pids"]["worker"], signal.SIGKILL)
        _, complaints = process.communicate(timeout=40)
    assert process.returncode == 1
    assert complaints.startswith("Error: worker ended by itself (exit code -9): see ")
    assert not any(map(is_running, where["pids"].values()))
