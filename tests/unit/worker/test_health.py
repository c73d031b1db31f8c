"""`health` with a real supervisor, and small programs in place of its workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.servers.waiting import wait_until
from worker.__main__ import main

pytestmark = pytest.mark.slow  # each test starts processes

WAIT = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); "
SLEEP = "time.sleep(60)"
REPORT = "from worker.base.progress import report_progress; "
READY = WAIT + REPORT + "[(report_progress(), time.sleep(0.1)) for _ in range(600)]"
AWAY = WAIT + REPORT + "[(report_progress('Redis is away'), time.sleep(0.1)) for _ in range(600)]"
ONCE = WAIT + REPORT + "report_progress(); " + SLEEP
DEAF = (
    "import time, signal; signal.signal(signal.SIGTERM, lambda *_: None); "
    + REPORT
    + "report_progress(); [time.sleep(0.1) for _ in range(600)]"
)
PROGRAM = """
import os, sys, worker.base.progress, worker.supervisor
from worker.health import HealthSocket
from worker.supervisor import Supervisor, WorkerProcess
worker.base.progress.READY_SECONDS, worker.supervisor.LIVE_SECONDS = map(float, sys.argv[2].split())
worker.base.progress.STOP_TIMEOUT = 3
process = WorkerProcess("issue", [sys.executable, "-c", sys.argv[1]], os.environ)
process.start()
problem = sys.argv[3] or None
sys.exit(Supervisor([process], HealthSocket("issue"), lambda: problem).run())
"""
Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files: the name of a socket has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="vk") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def run() -> Iterator[Run]:
    """A function that starts a supervisor with one worker, a program."""
    started = []

    def start(code: str, limits: str = "30 60", problem: str = "") -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", PROGRAM, code, limits, problem]
        process = subprocess.Popen(command, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def health(*options: str) -> Result:
    return CliRunner().invoke(main, ["health", *options])


def state() -> tuple[bool, bool, str | None]:
    found = json.loads(health().stdout)
    return found["live"], found["ready"], found["problem"]


def wait_for(live: bool, ready: bool, problem: str | None) -> None:  # noqa: FBT001 - a row of a table
    wait_until(lambda: state() == (live, ready, problem), 60, f"{live} {ready} {problem}")


def exit_codes() -> tuple[int, int, int]:
    return health("--live").exit_code, health("--ready").exit_code, health().exit_code


def test_a_worker_that_reports_progress_is_live_and_ready(run: Run) -> None:
    run(READY)
    wait_for(live=True, ready=True, problem=None)
    assert exit_codes() == (0, 0, 0)


def test_a_worker_that_starts_is_live_and_not_ready(run: Run) -> None:
    run(WAIT + SLEEP)
    wait_for(live=True, ready=False, problem="issue: it starts")
    assert exit_codes() == (0, 1, 1)


def test_a_worker_that_waits_for_a_server_is_live_and_not_ready(run: Run) -> None:
    run(AWAY, "1 2")
    wait_for(live=True, ready=False, problem="issue: Redis is away")


def test_workers_whose_database_is_away_are_live_and_not_ready(run: Run) -> None:
    run(READY, problem="the database is away")
    wait_for(live=True, ready=False, problem="issue: the database is away")


def test_a_silent_worker_is_first_not_ready_and_then_not_live(run: Run) -> None:
    run(ONCE, "0.5 2")
    wait_until(lambda: state()[:2] == (True, False), 60, "it is not ready")
    wait_until(lambda: state()[:2] == (False, False), 60, "it is not live")
    assert "it has made no progress for" in str(state()[2])
    assert exit_codes() == (1, 1, 1)


def test_a_worker_that_was_killed_is_live_and_not_ready_until_it_runs_again(run: Run) -> None:
    run(READY)
    wait_for(live=True, ready=True, problem=None)
    (worker,) = json.loads(health().stdout)["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    wait_for(live=True, ready=False, problem="issue: it has ended, and is started again")
    wait_for(live=True, ready=True, problem=None)


def test_a_run_that_stops_is_live_and_not_ready(run: Run) -> None:
    process = run(DEAF)
    wait_for(live=True, ready=True, problem=None)
    process.terminate()
    wait_for(live=True, ready=False, problem="issue: it is stopping")


def test_a_run_that_does_not_answer_is_not_live(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    process = run(READY)
    wait_for(live=True, ready=True, problem=None)
    monkeypatch.setattr("worker.health._ANSWER_SECONDS", 0.5)
    process.send_signal(signal.SIGSTOP)
    wait_for(False, False, "issue: its `worker run` does not answer within 0.5 s")


def test_a_run_that_was_killed_is_none(run: Run, folder: Path) -> None:
    process = run(READY)
    wait_for(live=True, ready=True, problem=None)
    process.kill()
    process.wait()
    result = health("--live")
    assert result.exit_code == 1
    assert "no worker runs here: python -m worker run starts one" in result.stdout
    assert list(folder.glob("valetkey-*/*")) == []


def test_a_socket_of_another_program_is_no_worker(folder: Path) -> None:
    health()  # creates the folder
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / f"valetkey-{os.getuid()}" / "1password"))
        other.listen()
        assert "no worker runs here" in health().stdout


def test_a_cut_report_changes_nothing(run: Run) -> None:
    run("import os; os.write(int(os.environ['VALETKEY_PROGRESS_FD']), b'\"Redis'); " + READY)
    wait_for(live=True, ready=True, problem=None)


def test_each_change_of_readiness_is_logged_once(
    run: Run, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    problem = f"'Redis is away' if os.path.exists({str(folder / 'away')!r}) else None"
    run("import os; " + READY.replace("report_progress()", f"report_progress({problem})"))
    lines: list[str] = []

    def count(event: str) -> int:
        lines.extend(capfd.readouterr().out.splitlines())
        return sum(event in line for line in lines)

    wait_until(lambda: count("worker_ready") == 1, 60, "it is ready")
    (folder / "away").touch()
    wait_until(lambda: count("worker_not_ready") == 1, 60, "it is not ready")
    (folder / "away").unlink()
    wait_until(lambda: count("worker_ready") == 2, 60, "it is ready again")
    assert ["Redis is away" in line for line in lines] == [False, True, False]


def test_only_workers_of_a_role_count(run: Run) -> None:
    run(READY)
    wait_for(live=True, ready=True, problem=None)
    assert health("--role", "issue").exit_code == 0
    result = health("--role", "upkeep")
    assert result.exit_code == 1
    assert "no worker of the role upkeep runs here" in result.stdout


def test_a_folder_that_others_can_write_is_refused(folder: Path) -> None:
    private = folder / f"valetkey-{os.getuid()}"
    private.mkdir()
    private.chmod(0o777)
    result = health()
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{private} is not a folder of this user with the mode 0700" in result.stderr


@contextmanager
def notified(path: Path) -> Iterator[Callable[[], Any]]:
    """Receive what a service manager is told, as lines."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        yield lambda: manager.recv(4_096).decode().splitlines()


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        (READY, ["STATUS=ready", "WATCHDOG=1", "READY=1"]),
        (AWAY, ["STATUS=issue: Redis is away", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000"]),
    ],
)
def test_systemd_is_told_the_state(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, lines: list[str]
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
    with notified(folder / "notify") as receive:
        run(code)
        wait_until(lambda: receive() == lines, 60, "the state is told")


def test_the_watchdog_of_systemd_is_not_fed_for_a_worker_that_hangs(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
    with notified(folder / "notify") as receive:
        run(ONCE, "0.5 1")
        wait_until(lambda: len(receive()) == 1, 60, "only the status is told")


def test_health_loads_neither_the_settings_nor_libraries_of_servers() -> None:
    code = (
        "import sys; from worker.__main__ import main; main(['health'], standalone_mode=False);"
        " print(sorted({'celery', 'pydantic', 'redis', 'sqlalchemy'} & set(sys.modules)))"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert text.stdout.splitlines()[-1] == "[]"
