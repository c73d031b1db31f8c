"""The job that mails links every night, and the questions that compliance asks of its log."""

import os
import re
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.acceptance.conftest import ROOT, Service, running_service, storage_client
from tests.acceptance.jobs.conftest import JOBS, NightlyMail
from tests.support.s3.http_requests import get, send
from tests.support.servers.databases import open_engine
from tests.support.servers.programs import run_program
from tests.support.servers.waiting import wait_until

GUIDE = (JOBS / "README.md").read_text(encoding="utf-8")
_, MAIL, _, QUESTIONS = re.findall(r"^```\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
USERS = 10_000
NIGHT, NEXT_NIGHT = "2026-11-29", "2026-11-30"
SKEWED_CLOCK = ROOT / "tests" / "support" / "skewed_clock"
DAY = 86_400
NO_SECOND_MAIL = """
CREATE TRIGGER no_second_mail BEFORE UPDATE OF mail ON mails WHEN old.mail IS NOT NULL
BEGIN SELECT RAISE(FAIL, 'mailed twice'); END"""


def count(service: Service, query: str) -> int:
    url = service.stack.environ["VALETKEY_DATABASE_URL"]
    with open_engine(url) as engine, engine.connect() as connection:
        return int(connection.execute(text(query)).scalar() or 0)


def charged(service: Service) -> int:
    """Return the number of grants that acme was charged for, this month."""
    query = "SELECT sum(grants) FROM usage WHERE tenant = 'acme' AND \"window\" = 'month'"
    return count(service, query)


def granted(service: Service) -> int:
    """Return the number of audit rows."""
    return count(service, "SELECT count(*) FROM grants")


class Night:
    """A night of the mail job that was killed in the middle, and started again."""

    def __init__(self, service: Service, job: NightlyMail) -> None:
        self.service, self.job = service, job
        before = charged(service)
        with job.start(NIGHT) as process:
            wait_until(lambda: len(job.mails(NIGHT)) > USERS // 3, what="a third is mailed")
            process.kill()
            self.first_output = process.communicate()
        self.first_mails = job.mails(NIGHT)
        with closing(sqlite3.connect(job.folder / "nightly.db")) as db:
            db.execute(NO_SECOND_MAIL)
        self.second = job.run(NIGHT)
        self.mails = job.mails(NIGHT)
        self.charged = charged(service) - before


@pytest.fixture(scope="module")
def night(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night(service, NightlyMail(service, tmp_path_factory.mktemp("mail"), USERS))


def test_each_user_gets_one_mail_although_the_job_was_killed(night: Night) -> None:
    assert USERS // 3 < len(night.first_mails) < USERS
    assert (night.second.returncode, night.second.stdout) == (
        0,
        f"{NIGHT}: {USERS:,} mailed, 0 refused\n",
    )
    assert list(night.mails) == [f"user-{n}@example.org" for n in range(1, USERS + 1)]
    assert night.mails.items() >= night.first_mails.items()


def test_each_mail_has_the_link_to_its_own_file(night: Night) -> None:
    wrong = [
        address
        for number, (address, link) in enumerate(night.mails.items(), 1)
        if f"/acme/statements/{number}.pdf?" not in link
    ]
    assert wrong == []
    assert send(get(night.mails["user-10000@example.org"])).status == 404  # a bad signature: 403


def test_each_user_is_charged_once_although_the_job_was_killed(night: Night) -> None:
    assert night.charged == USERS


def test_the_job_logs_no_link(night: Night) -> None:
    output = "".join([*night.first_output, night.second.stderr, night.second.stdout])
    assert f"{USERS:,} of {USERS:,} decided" in output
    assert "http" not in output
    assert "X-Amz" not in output + night.service.logs
    assert (night.job.folder / "nightly.db").stat().st_mode & 0o077 == 0


def test_another_run_of_the_same_night_asks_and_mails_nothing(night: Night) -> None:
    before = charged(night.service)
    assert night.job.run(NIGHT).returncode == 0
    assert charged(night.service) == before
    assert night.job.mails(NIGHT) == night.mails


def test_the_guide_makes_these_users(night: Night, tmp_path: Path) -> None:
    run_program(["sh", "-ec", MAIL.splitlines()[0]], cwd=tmp_path, check=True)
    assert (tmp_path / "users.csv").read_text() == (night.job.folder / "users.csv").read_text()


def test_users_without_the_columns_are_refused(night: Night, tmp_path: Path) -> None:
    job = NightlyMail(night.service, tmp_path, 0)
    (tmp_path / "users.csv").write_text("id,mail,key\n")
    assert job.run(NIGHT).stderr == "users.csv needs the columns id, email and key\n"


def test_compliance_learns_who_got_what_and_that_the_log_is_whole(night: Night) -> None:
    address, key, folder = "user-17@example.org", "acme/statements/17.pdf", night.job.folder
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**night.service.stack.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    answer = run_program(["sh", "-ec", QUESTIONS], cwd=folder, env=environ)
    assert answer.returncode == 0, answer.stderr
    parts = re.split(r"^== (.+)$", answer.stdout, flags=re.MULTILINE)
    answers = dict(zip(parts[1::2], parts[2::2], strict=True))
    grant = re.search(r"^grant +(\S+)$", answers["Whose is the link that was found?"], re.MULTILINE)
    assert grant is not None
    assert "GENUINE" in answers["Whose is the link that was found?"]
    who = answers["Who got a link to this object, and when?"]
    assert who.count(address) == 1
    assert grant[1] in who
    assert key in answers["What did this person get?"]
    assert f"statements {NIGHT}" in answers["How many links, and what became of them?"]
    assert f"recipient    {address}" in answers["Was it used?"]
    assert "evidence.csv: 1 rows" in answer.stderr
    verified = answers["Is the log whole, and the evidence what the log says?"]
    assert ("compared 1 rows" in verified, "Nothing differs." in verified) == (True, True)
    assert address in (folder / "evidence.csv").read_text()
    assert "<html" in (folder / "report.html").read_text()
    assert "X-Amz-Signature" not in answer.stdout + answer.stderr


# More chunks than a client requests ahead: some were never requested when the job is killed.
LATE_USERS, LATE_CHUNK = 300, 5


class LateNight:
    """A night of the mail job that was killed, and was only finished the next night.

    Clocks are a day and an hour behind at first, so that storage knows the links as expired later.
    """

    def __init__(self, service: Service, job: NightlyMail, skew: Path) -> None:
        self.job = job
        with job.start(NIGHT) as process:
            wait_until(lambda: len(job.mails(NIGHT)) > LATE_USERS // 10, what="some are mailed")
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: granted(service) > LATE_USERS // 5, what="more are granted")
            process.kill()
            process.communicate()
        self.first_mails = job.mails(NIGHT)
        skew.write_text("0")
        self.runs = [job.run(NEXT_NIGHT) for _ in range(2)]


@pytest.fixture(scope="module")
def late_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LateNight]:
    folder = tmp_path_factory.mktemp("late")
    skew = folder / "skew"
    skew.write_text(str(-DAY - 3_600))
    clocks: dict[str, Any] = {
        "PYTHONPATH": str(SKEWED_CLOCK),
        "VALETKEY_TEST_SKEW_FILE": str(skew),
        "VALETKEY_TEST_SKEW_ALL": "yes",
    }
    (folder / "service").mkdir()
    with running_service(folder / "service", **clocks) as service:
        storage = storage_client(service.stack)
        for number in range(LATE_USERS):
            storage.put_object(Bucket="valetkey-demo", Key=f"acme/statements/{number + 1}.pdf")
        job = NightlyMail(service, folder, LATE_USERS, LATE_CHUNK, **clocks)
        yield LateNight(service, job, skew)


def test_links_of_last_night_are_dead_the_next_night(late_night: LateNight) -> None:
    assert {send(get(link)).status for link in late_night.first_mails.values()} == {403}


def test_what_was_left_of_last_night_is_mailed_with_links_that_are_alive(
    late_night: LateNight,
) -> None:
    assert [run.returncode for run in late_night.runs] == [1, 0], late_night.runs
    mails, first = late_night.job.mails(NIGHT), late_night.first_mails
    assert (len(mails), mails.items() >= first.items()) == (LATE_USERS, True)
    later = [link for address, link in mails.items() if address not in first]
    assert {send(get(link)).status for link in later} == {200}


def test_granted_links_that_expired_are_issued_again_and_what_was_not_granted_in_a_new_batch(
    late_night: LateNight,
) -> None:
    with closing(sqlite3.connect(late_night.job.folder / "nightly.db")) as db:
        query = "SELECT count(*) FROM mails WHERE night = ? GROUP BY batch ORDER BY min(rowid)"
        (old,), (new,) = db.execute(query, (NIGHT,)).fetchall()
    assert old > max(len(late_night.first_mails), LATE_USERS // 5)
    assert new == LATE_USERS - old
    assert "start again, for a new batch: " in late_night.runs[0].stderr


def test_the_next_night_mails_everyone_again(late_night: LateNight) -> None:
    mails = late_night.job.mails(NEXT_NIGHT)
    assert len(mails) == LATE_USERS
    assert not mails.items() & late_night.job.mails(NIGHT).items()
    assert {send(get(link)).status for link in mails.values()} == {200}
