"""What `dev` keeps from one start to the next."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import generate_key, public_key_line
from worker.devstack.folder import FolderUnusable, has_running_stack, locked_folder
from worker.devstack.ports import HOST
from worker.devstack.service import Commands
from worker.devstack.stack import Stack, running_stack
from worker.devstack.state import load_state

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
NO_WORKERS = Commands(worker=SLEEP, beat=SLEEP, are_workers_ready=lambda _url, _supervisors: True)
SHELL = {"PATH": os.defpath}


@contextmanager
def start(
    data: Path,
    tenants: Path | None = None,
    ports: tuple[int | None, int | None] = (None, None),
) -> Iterator[Stack]:
    with running_stack(data, tenants, SHELL, ports=ports, commands=NO_WORKERS) as stack:
        yield stack


def write_tenants(folder: Path, tenant: str) -> Path:
    path = folder / f"{tenant}.toml"
    path.write_text(
        f"[tenants.{tenant}.keys]\n{public_key_line(generate_key(f'{tenant}/k'))}\n",
    )
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the example was applied first and then a file of another tenant."""
    data = tmp_path_factory.mktemp("restart")
    with start(data) as stack:
        assert list(stack.config.tenants) == ["acme", "globex"]
    with start(data, write_tenants(data, "initech")) as stack:
        assert list(stack.config.tenants) == ["initech"]
    return data


def test_the_tenants_that_were_applied_last_stay(data: Path) -> None:
    with start(data) as stack:
        assert list(stack.config.tenants) == ["initech"]
        assert (stack.state.tenants_file, stack.notes) == (str(data / "initech.toml"), [])
        assert list(stack.info.public_keys) == ["initech/k"]


def test_the_ports_stay(data: Path) -> None:
    before = load_state(data)
    with start(data):
        after = load_state(data)
    assert (after.broker_port, after.s3_port) == (before.broker_port, before.s3_port)


def test_a_port_that_is_taken_is_replaced_and_named(data: Path) -> None:
    taken = load_state(data).broker_port
    with socket.create_server((HOST, taken or 0)), start(data) as stack:
        assert f":{taken}/" not in stack.info.broker_url
        (note,) = stack.notes
        new = load_state(data).broker_port
        expected = f"Another process has taken port {taken}: the broker now has port {new}."
        assert note.startswith(expected)


def test_what_applying_a_file_removes_is_said(data: Path) -> None:
    with start(data, write_tenants(data, "hooli")) as stack:
        text = "\n".join(stack.notes)
    with start(data, data / "initech.toml"):
        pass
    assert f"Applied {data / 'hooli.toml'}:" in text
    assert "tenants.initech: 0 live grants" in text
    assert "+ tenants.hooli.trust keys" in text


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(FolderUnusable, match=r"state\.json is damaged: delete it"):
        load_state(tmp_path)


def test_a_folder_has_running_stack_while_it_is_locked(tmp_path: Path) -> None:
    assert not has_running_stack(tmp_path)
    with locked_folder(tmp_path):
        assert has_running_stack(tmp_path)
    assert not has_running_stack(tmp_path)


def test_a_start_after_a_kill_waits_for_the_servers_that_are_still_stopping(
    tmp_path: Path,
) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from worker.devstack.folder import locked_folder\n"
        "import subprocess\n"
        "with locked_folder(Path(sys.argv[1])) as fd:\n"
        "    subprocess.Popen(['sleep', '1.5'], pass_fds=[fd])\n"
        "    Path(sys.argv[1], 'ready').touch()\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) as process:
        wait_until((tmp_path / "ready").exists, seconds=20)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not has_running_stack(tmp_path)  # but the server that was left behind uses the folder
    with locked_folder(tmp_path):
        pass
