import importlib.metadata
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import redis

from tests.integration.dev.conftest import CHECKOUT
from tests.support.servers.waiting import is_running, wait_until
from worker.dev.child_processes import (
    HOST,
    ChildProcess,
    Program,
    StartFailed,
    reserved_ports,
    running,
)
from worker.dev.data_folder import FolderUnusable, locked_folder, storage_keys
from worker.dev.embedded_servers import Storage, running_seaweedfs, running_valkey

pytestmark = pytest.mark.slow
ONLY_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="on other systems a port is released before its server starts"
)
FOREVER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
STARTS_A_CHILD = """
import sys
from pathlib import Path
from worker.dev.child_processes import Program, running

folder, source = Path(sys.argv[1]), sys.argv[2]
program = Program("script", (sys.executable, "-c", source), folder, folder / "script.log")
with running(program, lambda child: "up" in child.log.read_text(), stop_timeout=0.2) as child:
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def script(tmp_path: Path, source: str, inherited_fds: tuple[int, ...] = ()) -> Program:
    command = (sys.executable, "-c", source)
    return Program(
        "script", command, tmp_path, tmp_path / "script.log", inherited_fds=inherited_fds
    )


def has_logged(text: str) -> Callable[[ChildProcess], bool]:
    return lambda child: text in child.log.read_text()


def test_a_child_is_gone_when_its_block_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        running(script(tmp_path, FOREVER), has_logged("up")) as child,
    ):
        raise ZeroDivisionError
    assert not is_running(child.pid)


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    with running(script(tmp_path, STUBBORN), has_logged("up"), stop_timeout=0.2) as child:
        pass
    assert child.process.returncode == -signal.SIGKILL


def test_what_a_child_started_goes_with_it(tmp_path: Path) -> None:
    with running(script(tmp_path, PARENT), has_logged("\n")) as child:
        grandchild = int(child.log.read_text())
        assert is_running(grandchild)
    wait_until(lambda: not is_running(grandchild))


def test_a_child_that_is_never_ready_names_its_log_and_is_gone(tmp_path: Path) -> None:
    children: list[ChildProcess] = []

    def never(child: ChildProcess) -> bool:
        children.append(child)
        return False

    starting = running(script(tmp_path, FOREVER), never, ready_timeout=0.1)
    with pytest.raises(StartFailed, match=r"not ready after 0\.1 s: see .*script\.log"), starting:
        pass
    assert not is_running(children[0].pid)


def test_a_child_that_ends_as_it_starts_says_so(tmp_path: Path) -> None:
    starting = running(script(tmp_path, "raise SystemExit(3)"), has_logged("up"))
    with pytest.raises(StartFailed, match=r"exit code 3\): see .*script\.log"), starting:
        pass


@pytest.mark.parametrize("source", [FOREVER, STUBBORN], ids=["willing", "stubborn"])
def test_a_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path, source: str) -> None:
    command = [sys.executable, "-c", STARTS_A_CHILD, str(tmp_path), source]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    wait_until(lambda: not is_running(child))


@ONLY_LINUX
def test_a_reserved_port_is_given_to_nobody_else() -> None:
    with (
        reserved_ports(None) as (port,),
        socket.socket() as other,
        pytest.raises(OSError, match="Address already in use"),
    ):
        other.bind((HOST, port))


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with (
        socket.create_server((HOST, 0)) as first,
        pytest.raises(StartFailed, match=r"Port \d+ of 127\.0\.0\.1 is taken"),
        running_valkey(tmp_path, first.getsockname()[1]),
    ):
        pass


def test_a_server_that_is_left_behind_keeps_its_folder_closed(tmp_path: Path) -> None:
    with locked_folder(tmp_path) as lock:
        inherited_fd = os.dup(lock)
        program = script(tmp_path, FOREVER, inherited_fds=(inherited_fd,))
        context = running(program, has_logged("up"))
        child = context.__enter__()
    os.close(inherited_fd)
    with pytest.raises(FolderUnusable, match="is in use by another"), locked_folder(tmp_path):
        pass
    assert is_running(child.pid)
    context.__exit__(None, None, None)
    with locked_folder(tmp_path):
        pass


def test_the_storage_keys_stay_and_are_for_their_owner_alone(tmp_path: Path) -> None:
    keys = storage_keys(tmp_path)
    assert storage_keys(tmp_path) == keys
    assert (tmp_path / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert keys.secret_key not in repr(keys)


def test_valkey_does_not_evict_what_is_queued(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_valkey_still_knows_its_keys_after_a_restart(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server, redis.Redis.from_url(server.url()) as client:
        client.set("kept", "1")
    with running_valkey(tmp_path) as server, redis.Redis.from_url(server.url()) as client:
        assert client.get("kept") == b"1"


def test_seaweedfs_keeps_its_objects_on_other_ports(tmp_path: Path) -> None:
    with running_seaweedfs(tmp_path, storage_keys(tmp_path)) as first:
        first.client().create_bucket(Bucket="embedded-kept")
        first.client().put_object(Bucket="embedded-kept", Key="a/b", Body=b"hello")
    with running_seaweedfs(tmp_path, storage_keys(tmp_path)) as second:
        assert second.endpoint != first.endpoint
        stored = second.client().get_object(Bucket="embedded-kept", Key="a/b")
        assert stored["Body"].read() == b"hello"


def test_seaweedfs_takes_only_its_objects_from_one_start_to_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "seaweedfs"
    (folder / "m1").mkdir(parents=True)
    (folder / "mini.options").write_text("disableHttp=true\n")
    with running_seaweedfs(tmp_path, storage_keys(tmp_path)) as storage:
        assert "Loaded 1 options" not in storage.child.log.read_text()
        assert not (folder / "m1").exists()
    port = storage.endpoint.rpartition(":")[2]
    assert list(Path("/tmp").glob(f"seaweedfs-s3-{port}.sock")) == []  # noqa: S108 - where it puts them


def test_a_storage_secret_is_in_no_log_and_no_repr(seaweed: Storage) -> None:
    assert seaweed.secret_key not in seaweed.child.log.read_text() + repr(seaweed)


def test_without_a_valkey_for_the_platform_one_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    with pytest.raises(StartFailed, match="VALETKEY_BROKER_URL"), running_valkey(tmp_path):
        pass


def test_without_a_seaweedfs_for_the_platform_one_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with (
        pytest.raises(StartFailed, match="VALETKEY_S3_ENDPOINT"),
        running_seaweedfs(tmp_path, storage_keys(tmp_path)),
    ):
        pass
