"""Workers of two releases replace each other on one queue and PostgreSQL, under load."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import Engine, inspect

from tests.support.compatibility.releases import (
    CHECKOUT,
    KEYS,
    Release,
    Service,
    running_servers,
)
from tests.support.compatibility.told import next_release
from tests.support.faults.comparison import Findings, Record, compare, summarize
from tests.support.faults.producers import (
    AsyncProducer,
    ClientProducer,
    request_large_batch,
    request_singles,
    request_small_batch,
)
from tests.support.faults.run import RECOVERY_SECONDS, AnswerGap, Load, Producer, running_load
from tests.support.servers.databases import fresh_database, open_engine
from worker.cli.database import known_revisions

pytestmark = pytest.mark.timeout(400)
WORKERS = 2
MAX_GAP = 20.0  # seconds; on an idle machine under 2
COLUMN = "note"
_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "0002_note"
down_revision = "{previous}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("usage", sa.Column("{column}", sa.Text()))
"""


def add_migration(release: Release) -> None:
    """Let a release need one more nullable column, which a migration adds."""
    models = release.folder / "models"
    text = _MIGRATION.format(previous=known_revisions()[-1], column=COLUMN)
    (models / "migrations" / "versions" / "0002_note.py").write_text(text)
    quotas = models / "quotas.py"
    last = '    uncharged_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")\n'
    source = quotas.read_text()
    assert source.count(last) == 1
    quotas.write_text(source.replace(last, f"{last}    {COLUMN}: Mapped[str | None]\n"))


class Workers:
    """Running workers, of which the oldest one is replaced first."""

    def __init__(self, service: Service, stack: ExitStack) -> None:
        self._service = service
        self._stack = stack
        self._running: deque[ExitStack] = deque()

    def start(self, release: Release) -> None:
        worker = self._service.running_worker(release, "--only", "issue", stops=True)
        running = self._stack.enter_context(ExitStack())
        running.enter_context(worker)
        self._running.append(running)

    def replace_all(self, release: Release, load: Load) -> None:
        """Replace each worker: start a new one, wait until it is ready, stop an old one."""
        for _ in range(len(self._running)):
            self.start(release)
            load.wait_for_calls(1)
            self._running.popleft().close()
            load.wait_for_calls(1)


@dataclass(frozen=True)
class Upgrade:
    """What producers were told during an upgrade and a return, and the longest gaps in seconds."""

    engine: Engine
    record: Record
    findings: Findings
    gap: float
    answered_by: tuple[int, int]


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Upgrade]:
    folder = tmp_path_factory.mktemp("upgrade")
    with ExitStack() as stack:
        servers = stack.enter_context(running_servers(folder))
        url = stack.enter_context(fresh_database(postgres_url))
        service = replace(servers, settings={**servers.settings, "VALETKEY_DATABASE_URL": url})
        current, later = Release("current", CHECKOUT), next_release(folder)
        add_migration(later)
        service.prepare(current)
        engine = stack.enter_context(open_engine(url))
        workers = Workers(service, stack)
        for _ in range(WORKERS):
            workers.start(current)
        with running_load(_producers(service)) as load, AnswerGap(load.record) as gap:
            later.run(service.settings, ("migrate",))
            workers.replace_all(later, load)
            workers.replace_all(current, load)
            stuck = load.stop(RECOVERY_SECONDS)
        assert (stuck, load.record.errors) == ([], [])
        logs = (service.log_of(current), service.log_of(later))
        answered = [log.read_text(errors="replace").count('"answered"') for log in logs]
        findings = compare(load.record, engine)
        yield Upgrade(engine, load.record, findings, gap.seconds, (answered[0], answered[1]))


def _producers(service: Service) -> list[Producer]:
    urls = (service.settings["VALETKEY_BROKER_URL"], service.settings["VALETKEY_RESULT_URL"])
    key = KEYS["acme"]
    return [
        ClientProducer("singles", urls, key, request_singles),
        ClientProducer("small", urls, key, request_small_batch),
        ClientProducer("large", urls, key, request_large_batch),
        AsyncProducer("async", urls, key, (1, 1, 1, 20)),
    ]


def test_workers_of_both_releases_answered(upgrade: Upgrade) -> None:
    assert min(upgrade.answered_by) > 0


def test_an_upgrade_and_a_return_under_load_lose_double_and_mischarge_nothing(
    upgrade: Upgrade, record_property: Callable[[str, object], None]
) -> None:
    record_property("items", len(upgrade.record.asked))
    assert upgrade.findings == Findings(), summarize(upgrade.findings)


def test_answers_continue_while_workers_are_replaced(
    upgrade: Upgrade, record_property: Callable[[str, object], None]
) -> None:
    record_property("gap (s)", round(upgrade.gap, 1))
    assert upgrade.gap < MAX_GAP


def test_the_column_of_the_next_release_stays_after_the_return(upgrade: Upgrade) -> None:
    names = [column["name"] for column in inspect(upgrade.engine).get_columns("usage")]
    assert COLUMN in names
