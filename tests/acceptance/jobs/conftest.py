import sqlite3
import subprocess
import sys
from contextlib import closing
from email import message_from_string
from pathlib import Path

from tests.acceptance.conftest import ROOT, Service
from tests.support.servers.programs import Completed

JOBS = ROOT / "examples" / "jobs"


class NightlyMail:
    """The program nightly_mail.py in a folder of its own, with `count` users."""

    def __init__(
        self, service: Service, folder: Path, count: int, chunk_size: int = 600, **environ: str
    ) -> None:
        self.folder, self.count = folder, count
        self.environ = service.producer_environ(folder) | environ
        self._program = (
            f"import sys; sys.path.insert(0, {str(JOBS)!r})\n"
            f"import nightly_mail; nightly_mail.CHUNK_SIZE = {chunk_size}\n"
            "sys.exit(nightly_mail.main())"
        )
        numbers = range(1, count + 1)
        rows = (f"{n},user-{n}@example.org,acme/statements/{n}.pdf\n" for n in numbers)
        (folder / "users.csv").write_text("id,email,key\n" + "".join(rows))

    def start(self, night: str) -> "subprocess.Popen[str]":
        words = ("users.csv", "--night", night)
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", self._program, *words],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, night: str) -> Completed:
        with self.start(night) as process:
            stdout, stderr = process.communicate(timeout=100)
        return Completed(process.args, process.returncode, stdout, stderr)

    def mails(self, night: str) -> dict[str, str]:
        """Return the links that were mailed in a night, by address."""
        path = self.folder / "nightly.db"
        if not path.exists():
            return {}
        with closing(sqlite3.connect(path)) as db:
            query = "SELECT mail FROM mails WHERE night = ? AND mail IS NOT NULL ORDER BY rowid"
            try:
                rows = db.execute(query, (night,)).fetchall()
            except sqlite3.OperationalError:  # the program has not made the table yet
                return {}
        mails = [message_from_string(text) for (text,) in rows]
        links = {mail["to"]: str(mail.get_payload()).split()[-1] for mail in mails}
        assert len(links) == len(mails)
        return links
