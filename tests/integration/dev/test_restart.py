"""What `dev` keeps from one start to the next."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.dev.conftest import NO_WORKERS, SHELL
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import generate_key, public_key_line
from worker.dev.child_processes import HOST, StartFailed
from worker.dev.data_folder import (
    FolderUnusable,
    StackState,
    has_running_stack,
    load_state,
    locked_folder,
)
from worker.dev.stack import Stack, running_stack

pytestmark = pytest.mark.slow


@contextmanager
def start(data: Path, tenants: Path | None = None, database: str = "") -> Iterator[Stack]:
    settings = {"VALETKEY_DATABASE_URL": database} if database else {}
    with running_stack(data, tenants, SHELL, settings=settings, commands=NO_WORKERS) as stack:
        yield stack


def write_tenants(folder: Path, tenant: str) -> Path:
    path = folder / f"{tenant}.toml"
    path.write_text(f"[tenants.{tenant}.keys]\n{public_key_line(generate_key(f'{tenant}/k'))}\n")
    return path


class Starts(NamedTuple):
    """What was said at the second start, and the states before and after the third one."""

    notes: str
    before: StackState
    after: StackState
    third: Stack


@pytest.fixture(scope="module")
def kept_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restart")


@pytest.fixture(scope="module")
def starts(kept_data: Path) -> Starts:
    """The example was applied at the first start, a file of another tenant at the second one."""
    with start(kept_data) as stack:
        assert list(stack.config.tenants) == ["acme", "globex"]
    with start(kept_data, write_tenants(kept_data, "initech")) as stack:
        notes, before = "\n".join(stack.notes), load_state(kept_data)
    with start(kept_data) as stack:
        return Starts(notes, before, load_state(kept_data), stack)


def test_what_applying_a_file_removes_is_said(starts: Starts, kept_data: Path) -> None:
    assert f"Applied {kept_data / 'initech.toml'}:" in starts.notes
    assert "tenants.acme: 0 live grants" in starts.notes
    assert "+ tenants.initech.trust keys" in starts.notes


def test_the_tenants_that_were_applied_last_stay(starts: Starts, kept_data: Path) -> None:
    stack = starts.third
    assert list(stack.config.tenants) == ["initech"]
    assert (stack.state.tenants_file, stack.notes) == (str(kept_data / "initech.toml"), [])
    assert list(stack.info.public_keys) == ["initech/k"]


def test_the_ports_stay(starts: Starts) -> None:
    before, after = starts.before, starts.after
    assert (after.broker_port, after.s3_port) == (before.broker_port, before.s3_port)


def test_a_port_that_is_taken_is_replaced_and_named(starts: Starts, kept_data: Path) -> None:
    taken = starts.after.broker_port
    with socket.create_server((HOST, taken or 0)), start(kept_data) as stack:
        assert f":{taken}/" not in stack.info.broker_url
        (note,) = stack.notes
        new = load_state(kept_data).broker_port
        expected = f"Another process has taken port {taken}: the broker now has port {new}."
        assert note.startswith(expected)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(FolderUnusable, match=r"state\.json is damaged: delete it"):
        load_state(tmp_path)


def test_a_start_after_a_kill_waits_for_the_servers_that_are_still_stopping(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from worker.dev.data_folder import locked_folder\n"
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


ANOTHER_ACCOUNT = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_and_its_new_parents_are_for_their_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    with locked_folder(data):
        assert (mode(data), mode(data.parent), mode(data / "lock")) == (0o700, 0o700, 0o600)


@pytest.mark.parametrize("wider", [0o777, 0o755, 0o750])
def test_the_access_of_other_accounts_to_a_folder_is_taken_away(tmp_path: Path, wider: int) -> None:
    tmp_path.chmod(wider)
    with locked_folder(tmp_path):
        assert mode(tmp_path) == 0o700
    tmp_path.chmod(wider)  # it now has our files
    with locked_folder(tmp_path):
        assert mode(tmp_path) == 0o700


def test_a_folder_with_other_contents_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(FolderUnusable, match="holds other files"), locked_folder(tmp_path):
        pass
    assert mode(tmp_path) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["report.pdf"]


@needs_root
def test_a_folder_of_another_account_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, ANOTHER_ACCOUNT, -1)
    with pytest.raises(FolderUnusable, match="another account"), locked_folder(tmp_path):
        pass


@needs_root
def test_an_open_folder_with_files_of_another_account_is_refused(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        pass
    tmp_path.chmod(0o777)
    (tmp_path / "credentials.json").touch()
    os.chown(tmp_path / "credentials.json", ANOTHER_ACCOUNT, -1)
    with pytest.raises(FolderUnusable, match="have files in it"), locked_folder(tmp_path):
        pass


def test_not_every_tenant_of_a_database_outside_of_the_data_folder_is_replaced(
    tmp_path: Path,
) -> None:
    database = f"sqlite:///{tmp_path / 'valetkey.db'}"
    with start(tmp_path / "data", None, database) as stack:
        assert stack.info.database_url == database
    with (
        pytest.raises(StartFailed, match="replaces every tenant of the database"),
        start(tmp_path / "data", write_tenants(tmp_path, "initech"), database),
    ):
        pass
