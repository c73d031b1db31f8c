"""The drill of docs/runbooks/restore.md: back up under load, lose the machine, restore, issue."""

import re
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from tests.support.faults.comparison import (
    AuditLog,
    Findings,
    ItemId,
    Record,
    compare,
    read_log,
    summarize,
    unaudited_results,
)
from tests.support.faults.drill import Drill, running_drill
from tests.support.faults.producers import (
    AsyncProducer,
    ClientProducer,
    request_large_batch,
    request_singles,
    request_small_batch,
)
from tests.support.faults.run import RECOVERY_SECONDS, Load, Producer, running_load
from tests.support.faults.service import ACME_KEY
from tests.support.servers.databases import open_engine
from valetkey import Client, ValetkeyError
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbooks" / "restore.md").read_text(encoding="utf-8")
STOLEN_KEY = generate_key("acme/stolen")
PERSON = "ann@example.com"
REASON = "restored the backup of Tuesday"
TENANTS = """
[buckets.demo]
bucket = "valetkey-demo"
region = "us-east-1"
[tenants.acme.allow.demo]
prefixes = ["acme/"]
max_size = "1MiB"
kinds = ["download", "put"]
[tenants.acme.keys]
"""


Items = frozenset[ItemId]
EMPTY_LOG = AuditLog({}, {})
NOT_A_STEP = {"audit list"}  # with which the drill compares


@dataclass
class Outcome:
    """What the drill found.

    before_backup are the items that producers were told before the backup, lost_log the log at the
    loss, and log the one after the restore. texts are the rows that name a person, before they are
    erased again and afterwards.
    """

    record: Record
    before_backup: Items = frozenset()
    lost_log: AuditLog = EMPTY_LOG
    log: AuditLog = EMPTY_LOG
    lost_url: str = ""
    findings: Findings = field(default_factory=Findings)
    texts: list[str] = field(default_factory=list)
    unsigned: str = ""
    verified: str = ""
    whose: str = ""
    append_only: str = ""
    is_stolen_key_refused: bool = False
    steps: list[str] = field(default_factory=list)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("drill")
    with (
        pytest.MonkeyPatch.context() as patch,
        running_drill(folder, request.param) as drill,
    ):
        patch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 1.0)
        return run_drill(drill)


def producers(urls: tuple[str, str]) -> list[Producer]:
    return [
        ClientProducer("singles", urls, ACME_KEY, request_singles),
        ClientProducer("small", urls, ACME_KEY, request_small_batch),
        ClientProducer("large", urls, ACME_KEY, request_large_batch),
        AsyncProducer("async", urls, ACME_KEY, (1, 1, 20, 1_250)),
    ]


def request(drill: Drill, name: str, key: PrivateKey = ACME_KEY) -> str:
    with closing(Client(*drill.urls, key=dump_private_key(key))) as client:
        grant = client.download("demo", f"acme/{name}", recipient=PERSON, expires_in=3_600)
        return grant.result(60).url


def apply(drill: Drill, *keys: PrivateKey) -> None:
    file = drill.data / "tenants.toml"
    file.write_text(TENANTS + "\n".join(map(public_key_line, keys)))
    drill.run("apply", str(file), "--yes")


def run_drill(drill: Drill) -> Outcome:
    apply(drill, ACME_KEY, STOLEN_KEY)
    drill.start_workers()
    request(drill, "for-a-person")
    with running_load(producers(drill.urls)) as load:
        outcome = Outcome(load.record)
        back_up_and_go_on(drill, load, outcome)
        outcome.lost_log = drill.lose_machine()
        restore(drill, outcome)
        load.wait_for_calls(2)
        stuck = load.stop(RECOVERY_SECONDS)
        assert (stuck, load.record.errors) == ([], [])
    examine(drill, outcome)
    return outcome


def back_up_and_go_on(drill: Drill, load: Load, outcome: Outcome) -> None:
    load.wait_for_calls(1)
    outcome.before_backup = frozenset(list(load.record.told))
    drill.back_up(drill.data / "backup")
    load.wait_for_calls(1)
    outcome.lost_url = request(drill, "lost")
    apply(drill, ACME_KEY)
    drill.run("audit", "erase", "--recipient", PERSON, "--reason", "case 1", "--yes", "9")
    (drill.data / "erased.jsonl").write_text(drill.run("audit", "erasures", "--export").stdout)
    drill.run("audit", "checkpoint")


def restore(drill: Drill, outcome: Outcome) -> None:
    """Walk the steps of the runbook until workers run."""
    drill.restore(drill.data / "backup")
    drill.migrate()
    drill.run("apply", str(drill.data / "tenants.toml"), "--yes")
    outcome.texts.append(list_texts(drill))
    erased = str(drill.data / "erased.jsonl")
    drill.run("audit", "erase", "--from", erased, "--reason", REASON, "--yes", "9")
    outcome.texts.append(list_texts(drill))
    outcome.unsigned = drill.run("audit", "checkpoint", exit_code=1).stderr
    drill.run("audit", "checkpoint", "--fork", REASON)
    drill.start_workers()


def examine(drill: Drill, outcome: Outcome) -> None:
    """Take the last step, and compare what producers were told with the restored database."""
    checkpoints = str(drill.data / "checkpoints")
    outcome.verified = drill.run("audit", "verify", "--checkpoint", checkpoints).stdout
    outcome.steps = [words for words in drill.commands if words not in NOT_A_STEP]
    outcome.whose = drill.run("audit", "whose", "-", exit_code=1, input=outcome.lost_url).stderr
    with open_engine(drill.database_url) as engine:
        outcome.log = read_log(engine)
        outcome.findings = compare(outcome.record, engine)
        outcome.append_only = append_only_problem(engine)
    outcome.is_stolen_key_refused = is_refused(drill, STOLEN_KEY)


def list_texts(drill: Drill) -> str:
    return drill.run("audit", "list", "--recipient", PERSON, "--json").stdout


def append_only_problem(engine: Engine) -> str:
    """Return how the database refuses to change a row of the log."""
    with pytest.raises(DBAPIError) as raised, engine.begin() as connection:
        connection.execute(text("UPDATE grants SET code = 'x'"))
    return str(raised.value)


def is_refused(drill: Drill, key: PrivateKey) -> bool:
    try:
        request(drill, "by-a-thief", key)
    except ValetkeyError:
        return True
    return False


def unaudited(outcome: Outcome, log: AuditLog) -> Items:
    return frozenset(item for item, _ in unaudited_results(outcome.record, log))


def test_everything_that_producers_ask_for_is_answered(outcome: Outcome) -> None:
    assert outcome.findings.lost == []
    assert len(outcome.record.told) > len(outcome.lost_log.rows) > len(outcome.before_backup) > 0


def test_a_backup_has_each_grant_that_was_handed_out_before_it(outcome: Outcome) -> None:
    assert unaudited(outcome, outcome.log) & outcome.before_backup == set()


def test_each_grant_that_is_handed_out_after_the_restore_is_audited(outcome: Outcome) -> None:
    # By rows: a client may hold a result that it received before the loss, and tell it later.
    not_before_loss = unaudited(outcome, outcome.lost_log)
    assert unaudited(outcome, outcome.log) & not_before_loss == set()


def test_grants_from_between_have_no_row(outcome: Outcome) -> None:
    assert unaudited(outcome, outcome.log)
    assert "no grant with this id" in outcome.whose


def test_nothing_is_doubled_or_mischarged(outcome: Outcome) -> None:
    doubled, mischarged = outcome.findings.doubled, outcome.findings.mischarged
    assert (doubled, mischarged) == ([], []), summarize(outcome.findings)


def test_erased_texts_are_back_and_are_erased_again(outcome: Outcome) -> None:
    before, after = outcome.texts
    assert PERSON in before
    assert after == ""


def test_a_log_that_does_not_continue_what_was_published_is_not_signed(outcome: Outcome) -> None:
    assert "not signed: acme" in outcome.unsigned


def test_the_log_verifies_with_the_declared_fork(outcome: Outcome) -> None:
    assert REASON in outcome.verified


def test_the_log_is_append_only_after_the_restore(outcome: Outcome) -> None:
    assert "append only" in outcome.append_only


def test_a_key_that_was_revoked_after_the_backup_is_not_accepted(outcome: Outcome) -> None:
    assert outcome.is_stolen_key_refused


def test_these_were_the_steps_of_the_runbook(outcome: Outcome) -> None:
    steps = re.findall(r"^ *python -m worker (audit \w+|\w+)", RUNBOOK, re.MULTILINE)
    assert outcome.steps == [step for step in steps if step in outcome.steps or step != "restore"]
