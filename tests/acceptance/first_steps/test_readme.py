"""Runs the programs of README.md and the tour, and `make demo` in a terminal of 80 columns."""

import csv
import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT, Service
from tests.support.cli.listening import listening
from tests.support.servers.programs import Completed, run_program, run_worker
from tests.support.servers.webhook_receiver import respond_with, running_receiver
from tools import demo_picture
from tools.demo_picture import PICTURE, draw


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each program or series of commands of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


(PROGRAM,) = [text for language, text in blocks("README.md") if language == "python"]
(FIRST_COMMANDS,) = [text for _, text in blocks("README.md") if "worker dev" in text]
TOUR = [text for _, text in blocks("docs/tour.md")]
# The fixture has started the servers of the tour already.
BLOCKING = ("worker dev", "webhooks listen")  # run until Ctrl-C
STEPS = [text for text in TOUR if not any(each in text for each in BLOCKING)]
(DESK,) = [text for text in TOUR if "webhooks listen" in text]


@pytest.fixture
def checkout(service: Service, tmp_path: Path) -> Path:
    """A folder like a reader's: the project, its .venv and the data of a running `worker dev`."""
    for name in ("worker", "models", "valetkey", "examples", "celeryconfig.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".valetkey").symlink_to(service.data)
    return tmp_path


def run(command: list[str], folder: Path, **environ: str) -> Completed:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)} | environ
    return run_program(command, cwd=folder, env=environment, timeout=200)


@pytest.fixture
def restored_config(service: Service) -> Iterator[None]:
    """The service's own config, applied again after the tour has applied another one."""
    yield
    tenants = str(service.data.parent / "tenants.toml")
    run_worker("apply", tenants, "--yes", cwd=ROOT, env=service.stack.environ, check=True)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.mark.skipif(not shutil.which("curl"), reason="the tour's reader has curl")
@pytest.mark.usefixtures("restored_config")
@pytest.mark.timeout(300)
def test_the_tour_works_in_one_go(checkout: Path) -> None:
    steps = "\n".join(STEPS).replace("8765", str(free_port()))
    result = run(["sh", "-c", steps], checkout)
    assert result.returncode == 1, result.stderr  # of the last command, which is refused
    assert "stored\n" in result.stdout
    assert "hello\n" in result.stdout
    assert re.search(
        r"^verified webhook of batch \S+: acme/hello.txt$", result.stdout, re.MULTILINE
    )
    assert "callback" not in result.stderr
    for code in ("expiry_too_long", "size_too_large", "key_outside_prefix"):
        assert code in result.stderr
    assert result.stderr.count("signature_required") == 1  # the last request, without the key
    assert result.stderr.count("acme trusts the queue") == 1  # until it has a key
    with (checkout / "links.csv").open(newline="") as links:
        assert sum(1 for row in csv.DictReader(links) if row["url"]) == 10_000
    assert "issued" in result.stdout
    relay_webhooks_to_a_desk(checkout, VALETKEY_KEY_FILE="acme.key")


def relay_webhooks_to_a_desk(checkout: Path, **environ: str) -> None:
    """Run the last step of the tour, with the key and the endpoint of the steps before it."""
    with running_receiver(respond_with(204)) as receiver:
        listen, trigger, request = DESK.replace("3000", str(receiver.port)).splitlines()
        with listening(checkout, environ, *shlex.split(listen)[3:]) as desk:
            assert run(shlex.split(trigger), checkout, **environ).returncode == 0
            assert run(shlex.split(request), checkout, **environ).returncode == 0
            desk.wait_for("grants.decided")
    types = [json.loads(body)["type"] for body in receiver.bodies[:2]]
    assert types == ["upload.stored", "grants.decided"]


@pytest.mark.usefixtures("service")
def test_the_program_of_the_readme_works(checkout: Path) -> None:
    result = run([sys.executable, "-c", PROGRAM], checkout)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("http")


@pytest.mark.skipif(not shutil.which("curl"), reason="the reader has curl")
@pytest.mark.usefixtures("service")
def test_the_commands_of_the_readme_upload_a_file_and_find_whose_its_link_is(
    checkout: Path,
) -> None:
    _install, _dev, *steps = FIRST_COMMANDS.splitlines()
    result = run(["sh", "-ec", "\n".join(steps)], checkout)
    assert result.returncode == 0, result.stderr
    assert "stored\nhello\n" in result.stdout
    assert "GENUINE" in result.stdout


@pytest.fixture(scope="module")
def demo() -> list[str]:
    return demo_picture.run_demo()


@pytest.mark.timeout(120)
def test_the_picture_in_the_readme_is_what_the_demo_prints(demo: list[str]) -> None:
    assert draw(demo) == PICTURE.read_text(encoding="utf-8"), "run `make picture`"


def test_the_picture_loads_nothing_and_contains_no_link() -> None:
    picture = PICTURE.read_text(encoding="utf-8")
    assert "@import" not in picture
    assert "url(http" not in picture
    assert "X-Amz" not in picture


@pytest.mark.timeout(120)
def test_the_demo_says_at_its_end_how_to_go_on(demo: list[str]) -> None:
    assert "Nothing is left running." in "\n".join(demo)
    assert any("python -m worker dev" in line for line in demo)
