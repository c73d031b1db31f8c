"""Runs the commands and programs of README.md, and `make demo` in a terminal of 80 columns."""

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

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
TOUR = README[README.index("## A tour") : README.index("## From a program")]
# The fixture has started the servers of the tour already.
BLOCKING = ("worker dev", "webhooks listen")  # run until Ctrl-C
STEPS = [text for _, text in BLOCKS if text in TOUR and not any(each in text for each in BLOCKING)]
(DESK,) = [text for _, text in BLOCKS if "webhooks listen" in text]


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
def test_the_tour_works(checkout: Path) -> None:
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


def test_the_tour_relays_webhooks_to_a_desk_and_sends_an_example(
    service: Service, checkout: Path
) -> None:
    environ = service.producer_environ(checkout)
    with running_receiver(respond_with(204)) as receiver:
        listen, trigger, request = DESK.replace("3000", str(receiver.port)).splitlines()
        with listening(checkout, environ, *shlex.split(listen)[3:]) as desk:
            assert run(shlex.split(trigger), checkout, **environ).returncode == 0
            assert run(shlex.split(request), checkout, **environ).returncode == 0
            desk.wait_for("grants.decided")
    types = [json.loads(body)["type"] for body in receiver.bodies[:2]]
    assert types == ["upload.stored", "grants.decided"]


@pytest.mark.parametrize("program", PYTHON, ids=["client", "plain celery"])
def test_a_program_of_the_readme_works(service: Service, checkout: Path, program: str) -> None:
    environ = service.producer_environ(checkout) if "send_task" in program else {}
    result = run([sys.executable, "-c", program], checkout, **environ)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(("http", "issued"))


def test_the_plain_producer_imports_no_valetkey_package() -> None:
    (plain,) = [program for program in PYTHON if "send_task" in program]
    assert not re.search(r"import (valetkey|worker|models)|from (valetkey|worker|models)", plain)


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
