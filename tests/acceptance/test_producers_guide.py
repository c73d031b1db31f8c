"""What docs/producers.md tells a backend developer to copy is run, as it stands there."""

import asyncio
import csv
import fcntl
import gzip
import re
import signal
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import ROOT, Service
from tests.support.docs import producers_guide
from tests.support.docs.producers_guide import COMMANDS, GUIDE, PROGRAMS, RECIPES
from tests.support.servers.desk import Desk, is_genuine, reading, silent
from tests.support.servers.waiting import wait_until
from valetkey.client import new_id


@pytest.fixture
def desk(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return reading(service, tmp_path, monkeypatch)


def links(text: str) -> dict[str, str]:
    """What a program has printed as lines of a key, or an address, and a link."""
    return dict(line.split("\t") for line in text.splitlines())


def test_there_are_ten_recipes_and_each_program_and_command_line_of_them_is_run_here() -> None:
    assert len(RECIPES) == 10
    assert [language for language, _ in producers_guide.BLOCKS].count("python") == len(PROGRAMS)
    runners = ["test_producers_guide.py", "test_producers_guide_http.py", "portal.py"]
    here = "".join(Path(__file__).with_name(name).read_text() for name in runners)
    assert not [name for name in PROGRAMS if Path(name).stem not in re.findall(r"\w+", here)]
    assert len(COMMANDS) == 6
    assert "\t" not in GUIDE


def test_every_place_that_the_guide_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", GUIDE):
        name, _, anchor = target.partition("#")
        page = (ROOT / "docs" / name).resolve() if name else ROOT / "docs" / "producers.md"
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        assert not anchor or anchor in anchors, target


def test_two_lines_of_configuration_are_enough_to_ask(service: Service, desk: Desk) -> None:
    install, keygen, two_lines, *_ = COMMANDS
    assert install == "pip install .\n"
    running = service.up.running
    told = desk.command("sh", "-c", keygen.replace("acme.key", "other.key"))
    assert told[0] == 0
    assert re.match(r'billing = \{ sign = "', told[1])
    lines = two_lines.replace("redis://queue.example.com:6379/0", running.broker_url)
    lines = lines.replace("/etc/billing/acme.key", desk.environ["VALETKEY_KEY_FILE"])
    bare = Desk(desk.folder, {"PATH": desk.environ["PATH"]})
    code, said, wrong = bare.command("sh", "-c", f"{lines}\nvaletkey usage")
    assert (code, wrong) == (0, "")
    assert "grants" in said


def test_a_nightly_job_that_is_run_again_gives_the_same_links(desk: Desk) -> None:
    first = desk.python("nightly.py")
    assert [first[0], first[2]] == [0, ""]
    assert len(links(first[1])) == 300
    assert is_genuine(links(first[1])["user-299@example.com"])
    assert desk.python("nightly.py") == first


def test_what_a_killed_process_asked_for_is_picked_up_by_another(desk: Desk) -> None:
    with desk.started("python", "nightly.py") as nightly:
        assert nightly.stdout is not None
        wanted = nightly.stdout.readline().split("\t")[1]  # the rest is more than the pipe holds
        nightly.kill()
    code, said, told = desk.python(
        "pick_up.py", (desk.folder / "statements-2026-11.batch").read_text()
    )
    assert (code, told) == (0, "300 of 300 granted, 0 refused\n")
    assert len(links(said)) == 300
    assert links(said)["acme/statements/2026-11/0.pdf"] == wanted.strip()


def test_a_batch_that_never_arrived_is_not_picked_up(desk: Desk) -> None:
    code, said, told = desk.python("pick_up.py", new_id())
    assert (code, said) == (1, "")
    assert "Refused: batch_unknown" in told


# The reader's own part of it, and a task that Celery runs twice.
REPORTS = """
from pathlib import Path
import reports

def mail(address, link):
    with Path("outbox").open("a") as outbox:
        outbox.write(f"{address}\\t{link}\\n")

reports.mail, app = mail, reports.app
if __name__ == "__main__":
    batch = reports.new_id()
    reports.announce("acme/reports/1.pdf", "first@example.com", batch)
    reports.announce("acme/reports/1.pdf", "second@example.com", batch)
    reports.start(7, "ada@example.com")
"""


@pytest.fixture
def outbox(desk: Desk) -> Iterator[Path]:
    """What the tasks of the chain have mailed."""
    (desk.folder / "works.py").write_text(REPORTS)
    options = ("--pool=solo", "--without-gossip", "--without-mingle", "--without-heartbeat")
    celery = desk.started("celery", "-A", "works", "worker", *options)
    yield desk.folder / "outbox"
    celery.terminate()
    _, log = celery.communicate(timeout=20)
    assert "X-Amz-Signature" not in log


def test_the_last_task_of_a_chain_mails_a_link_and_run_twice_the_same(
    desk: Desk, outbox: Path
) -> None:
    assert desk.python("works.py") == [0, "", ""]
    wait_until(lambda: outbox.read_text().count("\n") == 3, 20, "three mails")
    mailed = links(outbox.read_text())
    assert mailed["first@example.com"] == mailed["second@example.com"]
    assert "/acme/reports/7.pdf?" in mailed["ada@example.com"]
    assert is_genuine(mailed["ada@example.com"])


STATEMENTS = "key,filename\nacme/u-1.pdf,statement.pdf\nacme/u-2.pdf,\n"


def test_a_run_that_was_killed_goes_on_and_gives_a_row_for_each_row(
    service: Service, desk: Desk
) -> None:
    run, again, _ = COMMANDS[3:]
    (desk.folder / "statements.csv").write_text(STATEMENTS)
    nobody = silent(service, 9)
    with desk.started(
        *run.split(), VALETKEY_BROKER_URL=nobody, VALETKEY_RESULT_URL=nobody
    ) as killed:
        journal = desk.folder / "links.csv.resume.json"
        wait_until(journal.exists, what="it has begun")
        killed.kill()
    assert not (desk.folder / "links.csv").exists()
    assert desk.command(*again.split())[0] == 0
    with (desk.folder / "links.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == ["acme/u-1.pdf", "acme/u-2.pdf"]
    assert is_genuine(rows[1]["url"])
    assert not journal.exists()


def test_the_service_writes_the_file_itself_and_prints_one_link_to_it(desk: Desk) -> None:
    (desk.folder / "statements.csv").write_text(STATEMENTS)
    code, link, _ = desk.command(*COMMANDS[5].split())
    assert code == 0
    written = gzip.decompress(httpx.get(link.strip(), trust_env=False, timeout=60).content)
    assert len(written.splitlines()) == len(STATEMENTS.splitlines()) - 1


def test_of_a_file_with_a_bad_row_nothing_is_asked(desk: Desk) -> None:
    (desk.folder / "statements.csv").write_text(STATEMENTS + ",nameless.pdf\n")
    assert desk.command(*COMMANDS[3].split())[0] == 2
    assert not (desk.folder / "links.csv").exists()


def test_no_output_of_the_notebook_shows_a_link(desk: Desk) -> None:
    async def kernel() -> list[str]:  # a notebook's cells run while an event loop does
        return producers_guide.outputs(PROGRAMS["notebook.py"])

    assert desk.folder.is_dir()
    _, _, allowed, batch, answers, count, _ = asyncio.run(kernel())
    assert (allowed, count) == ("'issue'", "40")
    assert re.fullmatch(r"'[0-9a-f-]{36}'", batch)
    assert "acme/scans/0.png" in answers
    assert "http" not in answers


def test_what_is_asked_and_forgotten_is_told_by_webhook(service: Service) -> None:
    client = service.signing_client()
    client.download("demo", "acme/forgotten.pdf", callback="hook")
    client.close()
    bodies = service.receiver.bodies
    wait_until(lambda: b"acme/forgotten.pdf?" in b"".join(bodies), what="the webhook came")


def test_a_large_file_arrives_whole(service: Service, desk: Desk) -> None:
    film = desk.folder / "cat.mp4"
    film.write_bytes(bytes(range(256)) * 4096 * 17)
    assert desk.python("film.py", "cat.mp4") == [0, "cat.mp4: 2 parts\n", ""]
    with service.signing_client() as client:
        link = client.download("demo", "acme/films/cat.mp4").result().url
    assert httpx.get(link, timeout=60).content == film.read_bytes()


def unread(pipe: int) -> int:
    """How many bytes a pipe holds."""
    count: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return count


def test_a_big_job_that_is_interrupted_is_cancelled(desk: Desk) -> None:
    with desk.started("python", "big_job.py") as job:
        assert job.stdout is not None
        output = job.stdout.fileno()  # nobody reads it: once it is full, the job stands
        wait_until(lambda: unread(output) > 50_000, what="links are printed")
        job.send_signal(signal.SIGINT)
        _, told = job.communicate(timeout=30)
    found = re.fullmatch(r"(\d+) granted, (\d+) released\n", told)
    assert found, told
    granted, released = int(found[1]), int(found[2])
    assert granted + released == 2_000
    assert released > 0
