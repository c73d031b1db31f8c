"""The programs and commands of docs/producers.md, run exactly as printed there."""

import asyncio
import csv
import fcntl
import gzip
import json
import re
import signal
import sqlite3
import struct
import termios
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import ROOT, Service
from tests.acceptance.producers.conftest import (
    BLOCKS,
    COMMANDS,
    GUIDE,
    PROGRAMS,
    RECIPES,
    UNREACHABLE_URL,
    GuideSandbox,
    is_genuine,
    run_notebook,
)
from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from tests.support.servers.waiting import wait_until

RECEIVER = ROOT / "examples" / "webhooks" / "fastapi_app.py"
DJANGO_SITE = ROOT / "tests" / "support" / "servers" / "django_site.py"
PLUGIN_TESTS = ROOT / "tests" / "unit" / "testing" / "test_pytest_plugin.py"


def links(text: str) -> dict[str, str]:
    """Parse the lines that a program printed: a key or an address, a tab and a link."""
    return dict(line.split("\t") for line in text.splitlines())


def test_there_are_ten_recipes_and_these_tests_run_all_their_programs_and_commands() -> None:
    assert len(RECIPES) == 10
    assert [language for language, _ in BLOCKS].count("python") == len(PROGRAMS)
    source = Path(__file__).read_text() + DJANGO_SITE.read_text() + PLUGIN_TESTS.read_text()
    assert not [name for name in PROGRAMS if Path(name).stem not in re.findall(r"\w+", source)]
    assert len(COMMANDS) == 7
    assert "\t" not in GUIDE


def test_two_lines_of_configuration_are_enough(service: Service, sandbox: GuideSandbox) -> None:
    install, keygen, two_lines, *_ = COMMANDS
    assert install == "pip install .\n"
    info = service.stack.info
    code, stdout, _ = sandbox.command("sh", "-c", keygen)
    assert code == 0
    assert re.match(r'billing = \{ sign = "', stdout)
    lines = two_lines.replace("redis://queue.example.com:6379/0", info.broker_url)
    lines = lines.replace("/etc/billing/acme.key", sandbox.environ["VALETKEY_KEY_FILE"])
    minimal = GuideSandbox(sandbox.folder, {"PATH": sandbox.environ["PATH"]})
    code, stdout, stderr = minimal.command("sh", "-c", f"{lines}\nvaletkey usage")
    assert (code, stderr) == (0, "")
    assert "grants" in stdout


def test_a_nightly_job_that_is_run_again_gives_the_same_links(sandbox: GuideSandbox) -> None:
    code, stdout, stderr = sandbox.python("nightly.py")
    assert (code, stderr) == (0, "")
    assert len(links(stdout)) == 300
    assert is_genuine(links(stdout)["user-299@example.com"])
    assert sandbox.python("nightly.py") == [code, stdout, stderr]


def test_the_batch_of_a_killed_process_is_picked_up_by_another(sandbox: GuideSandbox) -> None:
    with sandbox.start("python", "nightly.py") as nightly:
        assert nightly.stdout is not None
        # The other lines exceed the pipe's capacity, so the process is still writing when killed.
        link = nightly.stdout.readline().split("\t")[1]
        nightly.kill()
    code, stdout, stderr = sandbox.python(
        "pick_up.py", (sandbox.folder / "statements-2026-11.batch").read_text()
    )
    assert (code, stderr) == (0, "300 of 300 granted, 0 refused\n")
    assert len(links(stdout)) == 300
    assert links(stdout)["acme/statements/2026-11/0.pdf"] == link.strip()


# The part that the guide leaves to its reader, and a task that runs twice.
REPORTS_APP = """
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
def outbox(sandbox: GuideSandbox) -> Iterator[Path]:
    """The file to which the chain's tasks write their mails."""
    (sandbox.folder / "works.py").write_text(REPORTS_APP)
    options = ("--pool=solo", "--without-gossip", "--without-mingle", "--without-heartbeat")
    worker = sandbox.start("celery", "-A", "works", "worker", *options)
    yield sandbox.folder / "outbox"
    worker.terminate()
    _, log = worker.communicate(timeout=20)
    assert "X-Amz-Signature" not in log


def test_the_last_task_of_a_chain_mails_a_link_and_run_twice_the_same(
    sandbox: GuideSandbox, outbox: Path
) -> None:
    assert sandbox.python("works.py") == [0, "", ""]
    wait_until(lambda: outbox.read_text().count("\n") == 3, 20, "three mails")
    mailed = links(outbox.read_text())
    assert mailed["first@example.com"] == mailed["second@example.com"]
    assert "/acme/reports/7.pdf?" in mailed["ada@example.com"]
    assert is_genuine(mailed["ada@example.com"])


STATEMENTS = "key,filename\nacme/u-1.pdf,statement.pdf\nacme/u-2.pdf,\n"


def test_a_run_that_was_killed_goes_on_and_gives_a_row_for_each_row(
    service: Service, sandbox: GuideSandbox
) -> None:
    run, again, _ = COMMANDS[3:6]
    (sandbox.folder / "statements.csv").write_text(STATEMENTS)
    unused_url = service.unused_database_url(9)
    with sandbox.start(
        *run.split(), VALETKEY_BROKER_URL=unused_url, VALETKEY_RESULT_URL=unused_url
    ) as process:
        journal = sandbox.folder / "links.csv.resume.json"
        wait_until(journal.exists, what="the run has started")
        process.kill()
    assert not (sandbox.folder / "links.csv").exists()
    assert sandbox.command(*again.split())[0] == 0
    with (sandbox.folder / "links.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == ["acme/u-1.pdf", "acme/u-2.pdf"]
    assert is_genuine(rows[1]["url"])
    assert not journal.exists()


def test_the_service_writes_the_file_itself_and_prints_one_link_to_it(
    sandbox: GuideSandbox,
) -> None:
    (sandbox.folder / "statements.csv").write_text(STATEMENTS)
    code, link, _ = sandbox.command(*COMMANDS[5].split())
    assert code == 0
    manifest = gzip.decompress(httpx.get(link.strip(), trust_env=False, timeout=60).content)
    assert len(manifest.splitlines()) == len(STATEMENTS.splitlines()) - 1


MAILS = 60


def test_each_of_many_recipients_gets_a_link_and_the_operator_finds_who_got_what(
    service: Service, sandbox: GuideSandbox
) -> None:
    mail, ask, forget = (text for _, text in BLOCKS if "mails.csv" in text or "user-17@" in text)
    assert "n <= 10000;" in mail
    code, _, stderr = sandbox.command("sh", "-ec", mail.replace("n <= 10000;", f"n <= {MAILS};"))
    assert code == 0, stderr
    mails = [line.split() for line in (sandbox.folder / "mails.txt").read_text().splitlines()]
    assert [mail[:2] for mail in mails] == [
        [f"mail-{n}", f"user-{n}@example.com"] for n in range(1, MAILS + 1)
    ]
    assert len({url for *_, url in mails}) == MAILS
    assert is_genuine(mails[16][2])
    operator = {"PATH": sandbox.environ["PATH"], "PYTHONPATH": str(ROOT)}
    operator = {**service.stack.environ, **operator}
    code, stdout, stderr = sandbox.command("sh", "-ec", ask, **operator)
    assert code == 0, stderr
    assert stdout.count("user-17@example.com") == 3
    assert "GENUINE" in stdout
    code, stdout, stderr = sandbox.command("sh", "-ec", f"{forget.strip()} --yes 3", **operator)
    assert code == 0, stderr
    assert "Erased 3 texts" in stdout
    code, stdout, _ = sandbox.command("sh", "-c", ask, **operator)
    assert "user-17@example.com" not in stdout
    assert "GENUINE" in stdout


def test_no_output_of_the_notebook_shows_a_link(sandbox: GuideSandbox) -> None:
    async def kernel() -> list[str]:  # a notebook runs its cells inside an event loop
        return run_notebook(PROGRAMS["notebook.py"])

    assert sandbox.folder.is_dir()
    _, _, allowed, batch, items, count, _ = asyncio.run(kernel())
    assert (allowed, count) == ("'issue'", "40")
    assert re.fullmatch(r"'[0-9a-f-]{36}'", batch)
    assert "acme/scans/0.png" in items
    assert "http" not in items


def test_a_large_file_arrives_whole(service: Service, sandbox: GuideSandbox) -> None:
    video = sandbox.folder / "cat.mp4"
    video.write_bytes(bytes(range(256)) * 4096 * 17)
    assert sandbox.python("film.py", "cat.mp4") == [0, "cat.mp4: 2 parts\n", ""]
    with service.signing_client() as client:
        link = client.download("demo", "acme/films/cat.mp4").result().url
    assert httpx.get(link, timeout=60).content == video.read_bytes()


def test_a_large_file_goes_on_where_it_was_interrupted(
    service: Service, sandbox: GuideSandbox
) -> None:
    video = sandbox.folder / "dog.mp4"
    video.write_bytes(bytes(range(256)) * 4096 * 17)
    program = sandbox.folder / "go_on.py"
    note = sandbox.folder / "dog.mp4.note"
    whole = program.read_text()
    program.write_text(whole.replace("    Multi", "    sys.exit(not upload.result())\n    Multi"))
    assert sandbox.python("go_on.py", "dog.mp4") == [0, "", ""]
    batch_id = json.loads(note.read_text())["id"]
    program.write_text(whole)
    assert sandbox.python("go_on.py", "dog.mp4") == [0, "", ""]
    assert not note.exists()
    with service.signing_client() as client:
        assert client.batch(batch_id).issued == 1
        link = client.download("demo", "acme/dog.mp4").result().url
    assert httpx.get(link, timeout=60).content == video.read_bytes()


def unread_bytes(pipe: int) -> int:
    """Return the number of unread bytes in a pipe."""
    count: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return count


def test_a_big_job_that_is_interrupted_is_cancelled(sandbox: GuideSandbox) -> None:
    with sandbox.start("python", "big_job.py") as job:
        assert job.stdout is not None
        output = job.stdout.fileno()  # not read: the job blocks once the pipe is full
        wait_until(lambda: unread_bytes(output) > 50_000, what="links are printed")
        job.send_signal(signal.SIGINT)
        _, stderr = job.communicate(timeout=30)
    match = re.fullmatch(r"(\d+) granted, (\d+) released\n", stderr)
    assert match, stderr
    granted, released = int(match[1]), int(match[2])
    assert granted + released == 2_000
    assert released > 0


PNG = "/slots?content_type=image/png"


async def post(app: Any, path: str, **arguments: Any) -> httpx.Response:
    """Send a POST to an application, with its startup and shutdown; return the response."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), client:
        return await client.post(path, **arguments)


def test_a_form_of_the_endpoint_accepts_an_image_within_its_size_limit(
    sandbox: GuideSandbox,
) -> None:
    response = asyncio.run(post(sandbox.load_module("uploads.py").app, PNG))
    assert response.status_code == 200
    form = response.json()

    def upload_status(content: bytes) -> int:
        files = {"file": content}
        return httpx.post(form["url"], data=form["fields"], files=files, timeout=60).status_code

    assert upload_status(bytes(500_001)) == 400
    assert upload_status(b"PNG") == 204


def test_the_endpoint_reports_why_it_returns_no_form(
    service: Service, sandbox: GuideSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = sandbox.load_module("uploads.py").app
    assert asyncio.run(post(app, PNG.replace("image/png", "text/html"))).status_code == 403
    monkeypatch.delenv("VALETKEY_KEY_FILE")
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    quota_url = service.unused_database_url(6)
    monkeypatch.setenv("VALETKEY_BROKER_URL", quota_url)
    monkeypatch.delenv("VALETKEY_RESULT_URL")
    with running_fake_service(quota_url, decide=refuse_outcome):
        assert asyncio.run(post(app, PNG)).status_code == 429
    monkeypatch.setenv("VALETKEY_BROKER_URL", UNREACHABLE_URL)
    response = asyncio.run(post(app, PNG))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def get_statement(
    sandbox: GuideSandbox, *users: str, **environ: str
) -> list[tuple[int, dict[str, str]]]:
    """Return the Django view's status and headers for each user."""
    code, stdout, stderr = sandbox.python(str(DJANGO_SITE), *users, **environ)
    assert code == 0, stderr
    return [tuple(json.loads(line)) for line in stdout.splitlines()]


def test_a_view_redirects_to_what_is_its_users_own_and_nowhere_else(sandbox: GuideSandbox) -> None:
    (status, headers), (other_status, _) = get_statement(sandbox, "7", "../../8")
    assert (status, headers["Cache-Control"]) == (302, "no-store")
    assert "/acme/statements/2026-11/7.pdf?" in headers["Location"]
    assert is_genuine(headers["Location"])
    assert other_status == 403


def test_a_view_without_a_queue_says_when_to_try_again(sandbox: GuideSandbox) -> None:
    ((status, headers),) = get_statement(sandbox, "7", VALETKEY_BROKER_URL=UNREACHABLE_URL)
    assert (status, headers["Retry-After"]) == (503, "5")


def test_the_receiver_of_the_page_stores_results_once_and_only_if_they_are_genuine(
    service: Service, sandbox: GuideSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sandbox.python("ask.py") == [0, "", ""]
    receiver = service.receiver

    def arrived_numbers() -> list[int]:
        return [n for n, body in enumerate(receiver.bodies) if b"acme/archive/39.pdf" in body]

    number = wait_until(arrived_numbers, what="the webhook has arrived")[0]
    headers = {name: text for name, text in receiver.headers[number].items() if "ebhook-" in name}
    database = sandbox.folder / "hooks.db"
    monkeypatch.setenv("HOOK_DATABASE", str(database))
    app = sandbox.load_module(str(RECEIVER)).app

    def post_webhook(body: bytes) -> int:
        return asyncio.run(post(app, "/hook", content=body, headers=headers)).status_code

    def stored_links() -> dict[str, str]:
        with closing(sqlite3.connect(database)) as connection:
            return dict(connection.execute("SELECT key, url FROM links").fetchall())

    assert post_webhook(receiver.bodies[number] + b" ") == 400
    assert stored_links() == {}
    for _ in range(2):
        assert post_webhook(receiver.bodies[number]) == 204
        assert len(stored_links()) == 40
    assert is_genuine(stored_links()["acme/archive/39.pdf"])
