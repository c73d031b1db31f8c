"""Trees that do not continue what was published: not signed, until a fork is declared."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr
from sqlalchemy import Engine, insert

from models import Leaf
from tests.integration.conftest import ApplyConfig
from tests.integration.proof.checkpoints.conftest import Issue, Lose, note_of, publish_to
from tests.support.audit_log.logs import generate_log
from tests.support.audit_log.rebuilding import store_head
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.builders.messages import DEMO, batch_id, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.cli.live_doctor import doctor_checks
from tests.support.cli.operator import ON_SQLITE, json_lines, json_rows, refusal
from tests.support.cli.operator import run_audit as run
from tests.support.crypto.audit_proofs import tamper
from worker.base.database_engine import read_transaction, sqlite_path
from worker.dev.embedded_servers import Storage
from worker.doctor.metrics_command import metrics
from worker.ledger.merkle import RightEdge
from worker.proof.checkpoint_destinations import Destinations
from worker.proof.checkpoint_format import Fork, SignerKey, open_checkpoint
from worker.proof.checkpoint_key import CheckpointKeys
from worker.proof.checkpoint_rows import read_forks
from worker.proof.checkpoints import sign_checkpoints
from worker.proof.proof_settings import ProofSettings
from worker.rules.tenant_config import TenantConfig

ACME = ("checkpoint", "--tenant", "acme")
CONTRADICTED = "leaves, which this log does not continue"


def refused(result: Result) -> str:
    """Return why the tree of acme is not signed."""
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if "not signed" in line]
    return line.removeprefix("Error: not signed: acme: ")


def signed_sizes(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        query = "SELECT size FROM checkpoints WHERE tenant = 'acme' ORDER BY size"
        return [row[0] for row in connection.exec_driver_sql(query)]


def audit_problems() -> list[dict[str, Any]]:
    return [each for each in doctor_checks("audit", "--offline") if each["state"] == "fail"]


def gauge() -> str:
    output = CliRunner().invoke(metrics).stdout
    (line,) = [each for each in output.splitlines() if 'checkpoint_refused{tenant="acme"}' in each]
    return line.split()[-1]


@pytest.mark.parametrize("lost_leaves", [1, 2, 5])  # a smaller, the same and a larger size
def test_a_log_that_does_not_continue_a_published_checkpoint_is_not_signed(
    issue: Issue, engine: Engine, folder: Path, lose: Lose, lost_leaves: int
) -> None:
    issue(signs=True)
    lose(lost_leaves)
    issue()
    issue()
    text = f"{folder.parent}: it has a checkpoint of {1 + lost_leaves} {CONTRADICTED}"
    assert refused(run(*ACME)) == text
    assert signed_sizes(engine) == [1]
    assert len(list(folder.iterdir())) == 2  # the published ones of before


def test_a_contradiction_is_in_doctor_and_metrics_until_a_fork_is_declared(
    issue: Issue, folder: Path, lose: Lose
) -> None:
    issue(signs=True)
    assert gauge() == "0.0"
    lose(3)
    issue()
    run(*ACME)
    (check,) = audit_problems()
    assert (
        f"the log of acme is not signed: {folder.parent}: it has a checkpoint" in check["message"]
    )
    assert "audit checkpoint --fork REASON" in check["hint"]
    assert gauge() == "1.0"
    assert run(*ACME, "--fork", "restored").exit_code == 0
    assert audit_problems() == []
    assert gauge() == "0.0"


def test_a_declared_fork_is_a_leaf_that_names_each_lost_checkpoint(
    issue: Issue, engine: Engine, folder: Path, lose: Lose
) -> None:
    issue(signs=True)
    notes = lose(2, 3)
    issue()
    result = run(*ACME, "--fork", "restored Tuesday")
    assert result.exit_code == 0, result.output
    assert "Declared a fork of acme: it does not continue 2 checkpoints, up to 6" in result.stderr
    with read_transaction(engine) as connection:
        (fork,) = read_forks(connection, "acme")
    assert (fork.contradicted, fork.reason) == (notes, "restored Tuesday")
    assert [text.size for text in fork.heads] == [3, 6]
    assert signed_sizes(engine) == [1, 3]  # with the leaf of the fork
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 4  # the lost one of the same size is still there
    assert names[1].startswith("000000000003-")


def test_signing_and_publishing_go_on_after_a_fork(
    issue: Issue, engine: Engine, folder: Path, lose: Lose
) -> None:
    issue(signs=True)
    lose(2, 3)
    issue()
    assert run(*ACME, "--fork", "restored").exit_code == 0
    for _ in range(5):
        issue()
        assert run(*ACME).exit_code == 0
    assert signed_sizes(engine) == [1, 3, 4, 5, 6, 7, 8]
    assert len(list(folder.iterdir())) == 3 + 6


def test_verify_names_the_fork_of_an_abandoned_checkpoint(
    issue: Issue, key: SignerKey, folder: Path, lose: Lose
) -> None:
    issue(signs=True)
    lose(2, 3)
    issue()
    words = ("verify", "--key", str(key.verifier), "--checkpoint", str(folder))
    before = run(*words)
    assert (before.exit_code, "declares a fork" in before.output) == (1, False)
    assert run(*ACME, "--fork", "restored Tuesday").exit_code == 0
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.output.count("this log does not continue it: leaf 2, which ") == 2
    assert result.output.count("declares a fork: restored Tuesday") == 2
    summary = json_rows(run(*words, "--json"))[-1]
    assert (summary["sound"], summary["forks"], summary["checkpoints"]) == (True, 1, 5)


@ON_SQLITE
@pytest.mark.usefixtures("folder")
def test_verify_still_finds_a_checkpoint_that_no_fork_abandons(
    issue: Issue, key: SignerKey, lose: Lose, tmp_path: Path
) -> None:
    issue(signs=True)
    (other,) = lose(2, folder=None)
    lose(2)
    issue()
    assert run(*ACME, "--fork", "restored").exit_code == 0
    (tmp_path / "other").write_text(other)
    words = ("--key", str(key.verifier), "--checkpoint", str(tmp_path / "other"))
    assert "differ from the checkpoint of size 3" in run("verify", *words).output


@ON_SQLITE
@pytest.mark.parametrize("change", ["restored", "acme", "fork"])
@pytest.mark.usefixtures("folder")
def test_verify_finds_a_changed_fork(issue: Issue, engine: Engine, lose: Lose, change: str) -> None:
    issue(signs=True)
    lose(2)
    issue()
    assert run(*ACME, "--fork", "restored").exit_code == 0
    values = f"replace(reference, ':\"{change}\"', ':\"other\"')"
    tamper(engine, f"UPDATE leaves SET reference = {values} WHERE kind = 'fork'")  # noqa: S608
    result = run("verify")
    assert (result.exit_code, "leaves: tenant acme" in result.output) == (1, True)


@ON_SQLITE
def test_a_fork_that_was_only_inserted_explains_nothing(
    issue: Issue, engine: Engine, key: SignerKey, folder: Path, lose: Lose
) -> None:
    issue(signs=True)
    notes = lose(2)
    issue()
    record = Fork("acme", notes, "none", "mallory", "2026-11-24T12:30:00.000000Z").record
    row = {"tenant": "acme", "leaf_number": 2, "kind": "fork", "reference": record}
    with engine.begin() as connection:
        connection.execute(insert(Leaf).values(hash=bytes(32), **row))
    words = ("verify", "--key", str(key.verifier), "--checkpoint", str(folder))
    assert run(*words).exit_code == 1


@pytest.mark.usefixtures("folder")
def test_a_fork_is_refused_if_nothing_is_contradicted(issue: Issue, engine: Engine) -> None:
    issue(signs=True)
    issue()
    assert "no destination has a checkpoint" in refusal(run(*ACME, "--fork", "by mistake"))
    with read_transaction(engine) as connection:
        assert read_forks(connection, "acme") == []


def test_a_fork_needs_a_destination_that_can_be_read(issue: Issue) -> None:
    issue()
    assert "names no folder and no bucket" in refusal(run(*ACME, "--fork", "by mistake"))


@ON_SQLITE
@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "a" * 201])
@pytest.mark.usefixtures("issue")
def test_a_fork_needs_a_reason_of_one_line(reason: str) -> None:
    assert "write 1 to 200 characters" in refusal(run("checkpoint", "--fork", reason))


@pytest.mark.usefixtures("folder")
def test_a_fork_is_declared_once_and_again_for_what_was_lost_again(
    issue: Issue, engine: Engine, lose: Lose
) -> None:
    issue(signs=True)
    lose(4)
    issue()
    assert run(*ACME, "--fork", "first").exit_code == 0
    refusal(run(*ACME, "--fork", "first"))
    (again,) = lose(9)
    issue()
    assert CONTRADICTED in refused(run(*ACME))
    assert run(*ACME, "--fork", "second").exit_code == 0
    with read_transaction(engine) as connection:
        first, second = read_forks(connection, "acme")
    assert (first.reason, second.reason, second.contradicted) == ("first", "second", [again])


@ON_SQLITE
def test_without_a_tenant_every_contradicted_tree_is_declared(
    issue: Issue, engine: Engine, key: SignerKey, folder: Path, lose: Lose
) -> None:
    issue(signs=True)
    lose(4)
    lose(1, folder=folder.parent / "~config", tenant="~config")
    assert run("checkpoint", "--fork", "restored").exit_code == 0
    with read_transaction(engine) as connection:
        forks = [len(read_forks(connection, tenant)) for tenant in ("acme", "~config")]
    assert forks == [1, 1]
    words = ("--key", str(key.verifier), "--checkpoint", str(folder.parent))
    assert json_rows(run("verify", *words, "--json"))[-1]["forks"] == 2


Write = Callable[[RightEdge, SignerKey], str]
NONSENSE: dict[str, Write] = {
    "is no checkpoint of this log: it ": lambda _edge, _key: "\0 no note",
    "this log: it is not signed by": lambda edge, key: note_of(edge, replace(key, seed=bytes(32))),
    "not signed by audit.example.com": lambda edge, key: note_of(edge, replace(key, name="other")),
    "is the checkpoint of globex": lambda edge, key: note_of(edge, key, "globex"),
    "acme with 5 leaves": lambda edge, key: note_of(edge.append(bytes(32)), key),
}


@ON_SQLITE
@pytest.mark.parametrize("problem", NONSENSE)
def test_a_destination_that_answers_nonsense_is_no_comparison(
    issue: Issue,
    engine: Engine,
    key: SignerKey,
    folder: Path,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    issue(signs=True)
    edge = RightEdge.of([bytes(32)] * 4)
    (folder / "000000000004.checkpoint").write_text(NONSENSE[problem](edge, key))
    issue()
    text = refused(run(*ACME))
    assert text.startswith(f"no destination can be compared: {folder.parent}: ")
    assert problem in text
    (check,) = audit_problems()
    assert check["hint"].startswith("make one readable")
    publish_to(monkeypatch, folder.parent, tmp_path / "good")
    assert "not published: acme" in run(*ACME).stderr  # but signed: the other one answers
    assert signed_sizes(engine) == [1, 2]
    assert [path.name for path in (tmp_path / "good" / "acme").iterdir()] == [
        "000000000002.checkpoint"
    ]


@ON_SQLITE
def test_one_destination_of_two_may_be_away(
    issue: Issue, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    publish_to(monkeypatch, a, b)
    issue(signs=True)
    b.rename(tmp_path / "away")
    b.write_text("")
    for _ in range(2):
        issue()
        assert "not published: acme" in run(*ACME).stderr
    assert signed_sizes(engine) == [1, 2, 3]
    b.unlink()
    (tmp_path / "away").rename(b)
    issue(signs=True)
    assert len(list((a / "acme").iterdir())) == len(list((b / "acme").iterdir())) == 4


@ON_SQLITE
def test_a_destination_that_contradicts_stops_signing_beside_one_that_agrees(
    issue: Issue, engine: Engine, tmp_path: Path, lose: Lose, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_to(monkeypatch, tmp_path / "a", tmp_path / "b")
    issue(signs=True)
    lose(3, folder=tmp_path / "b" / "acme")
    issue()
    assert refused(run(*ACME)).startswith(f"{tmp_path / 'b'}: it has a checkpoint of 4 leaves")
    assert signed_sizes(engine) == [1]


@ON_SQLITE
def test_a_destination_that_was_away_gets_nothing_if_it_contradicts(
    issue: Issue, tmp_path: Path, lose: Lose, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, away = tmp_path / "a", tmp_path / "b", tmp_path / "away"
    publish_to(monkeypatch, a, b)
    issue(signs=True)
    lose(1, folder=b / "acme")  # the next checkpoint would hide it: that has more leaves
    b.rename(away)
    b.write_text("")
    issue()
    issue()
    assert "not published: acme" in run(*ACME).stderr
    b.unlink()
    away.rename(b)
    result = run(*ACME)
    assert f"not published: acme to {b}: it has a checkpoint of 2 leaves" in result.stderr
    assert len(list((b / "acme").iterdir())) == 2


@ON_SQLITE
def test_a_destination_that_lost_what_was_published_is_no_comparison(
    issue: Issue, engine: Engine, folder: Path
) -> None:
    issue(signs=True)
    shutil.rmtree(folder.parent)  # as a folder that is not mounted
    issue()
    assert "it lacks the checkpoint of 1 leaves" in refused(run(*ACME))
    assert signed_sizes(engine) == [1]


@ON_SQLITE
def test_a_destination_that_only_has_older_checkpoints_agrees(
    issue: Issue, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(signs=True)
    monkeypatch.delenv("VALETKEY_AUDIT_CHECKPOINTS")
    issue(signs=True)
    issue(signs=True)
    publish_to(monkeypatch, folder.parent)
    issue(signs=True)
    assert signed_sizes(engine) == [1, 2, 3, 4]
    assert len(list(folder.iterdir())) == 4


@ON_SQLITE
def test_only_webhooks_leave_nothing_to_compare(
    issue: Issue, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_to(monkeypatch, "https://127.0.0.1:9/x")
    issue()
    assert "not signed" not in run(*ACME).stderr
    assert signed_sizes(engine) == [1]


@pytest.mark.usefixtures("folder")
def test_a_rewritten_log_whose_checkpoints_were_removed_is_not_signed(
    issue: Issue, engine: Engine
) -> None:
    issue()
    issue(signs=True)
    issue()
    with closing(StoredTables(engine.url.render_as_string(hide_password=False))) as tables:
        for table in ("checkpoints", "checkpoint_publications"):
            tables.execute(f"DELETE FROM {table} WHERE tenant = 'acme'")  # noqa: S608
        tables.update("leaves", {"tenant": "acme", "leaf_number": 0}, hash=bytes(32))
        store_head(tables, "acme", 3)
    assert CONTRADICTED in refused(run(*ACME))


@pytest.mark.usefixtures("folder")
def test_removed_checkpoints_of_the_true_log_are_no_contradiction(
    issue: Issue, engine: Engine
) -> None:
    issue()
    issue(signs=True)
    issue(signs=True)
    issue()
    tamper(engine, "DELETE FROM checkpoints WHERE tenant = 'acme' AND size > 2")
    assert run(*ACME).exit_code == 0
    assert signed_sizes(engine) == [2, 4]


def test_another_process_that_signs_meanwhile_is_no_contradiction(
    issue: Issue, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(signs=True)
    issue()
    names = Destinations.names

    def names_later(self: Destinations, *place: Any) -> list[str]:
        monkeypatch.setattr(Destinations, "names", names)
        issue(signs=True)  # by another process, after this one has read the tree
        return names(self, *place)

    monkeypatch.setattr(Destinations, "names", names_later)
    result = run(*ACME)
    assert result.exit_code == 0, result.output
    assert signed_sizes(engine) == [1, 3]
    assert len(list(folder.iterdir())) == 2


@ON_SQLITE
@pytest.mark.usefixtures("folder")
def test_an_unchanged_tree_asks_no_destination(
    issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(signs=True)
    monkeypatch.setattr(Destinations, "names", None)
    assert json_lines(run(*ACME, "--json"))[0]["state"] == "unchanged"


@ON_SQLITE
def test_a_signing_costs_one_list_and_one_read(
    issue: Issue, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        issue(signs=True)
    calls: list[str] = []
    for name in ("names", "read"):
        method = getattr(Destinations, name)

        def counted(*args: Any, name: str = name, method: Any = method) -> Any:
            calls.append(name)
            return method(*args)

        monkeypatch.setattr(Destinations, name, counted)
    issue()
    assert run(*ACME).exit_code == 0
    assert calls == ["names", "read"]
    assert len(list(folder.iterdir())) == 4


@ON_SQLITE
def test_a_restored_backup_is_not_signed_before_its_fork_is_declared(
    issue: Issue, engine: Engine, key: SignerKey, folder: Path, tmp_path: Path
) -> None:
    path = sqlite_path(engine.url.render_as_string(hide_password=False))
    assert path is not None
    issue(signs=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "backup"),))
    for _ in range(2):
        issue(signs=True)
    engine.dispose()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup", path)
    for _ in range(3):  # more than were lost
        issue()
    assert "has a checkpoint of 3 leaves" in refused(run(*ACME))
    assert run(*ACME, "--fork", "restored the backup").exit_code == 0
    issue(signs=True)
    words = ("--key", str(key.verifier), "--checkpoint", str(folder))
    result = run("verify", *words)
    assert result.exit_code == 0, result.output
    assert result.output.count("declares a fork: restored the backup") == 2
    assert len(list(folder.iterdir())) == 5


@ON_SQLITE
def test_a_pruned_log_continues_what_was_published(
    service: InProcessService, tmp_path: Path
) -> None:
    log = generate_log(service.url, seed=2, is_pruned=True)
    for tenant, note in log.notes.items():
        folder = tmp_path / "out" / tenant
        folder.mkdir(parents=True)
        (folder / f"{open_checkpoint(note)[0].size:012d}.checkpoint").write_text(note)
    tamper(service.engine, "DELETE FROM checkpoints")  # so that all leaves are read
    settings = ProofSettings(audit_checkpoints=SecretStr(str(tmp_path / "out")))
    results = sign_checkpoints(service.context, CheckpointKeys(log.signer), settings)
    assert {result.tenant_id for result in results if result.is_new} == log.notes.keys()


@pytest.fixture
def bucket(
    seaweed: Storage, issue: Issue, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A client of a new bucket in SeaweedFS, with the profile `evidence`: the only destination."""
    del issue  # it applies another config
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    client = seaweed.client()
    name = f"checkpoints-{batch_id()}"
    client.create_bucket(Bucket=name)
    config = tenant_config()
    profile = replace(DEMO, name="evidence", bucket=name, endpoint=seaweed.endpoint)
    apply_config(TenantConfig({**config.buckets, "evidence": profile}, config.tenants))
    publish_to(monkeypatch, "s3://evidence/audit")
    return lambda method, **params: getattr(client, method)(Bucket=name, **params)


def stored_keys(bucket: Any) -> list[str]:
    return [each["Key"] for each in bucket("list_objects_v2", Prefix="audit/acme/")["Contents"]]


def test_a_bucket_that_contradicts_the_log_stops_signing_until_a_fork_is_declared(
    issue: Issue, bucket: Any, lose: Lose
) -> None:
    issue(signs=True)
    for note in lose(1, 2, folder=None):
        size = open_checkpoint(note)[0].size
        bucket("put_object", Key=f"audit/acme/{size:012d}.checkpoint", Body=note.encode())
    issue()
    text = f"s3://evidence/audit/: it has a checkpoint of 4 {CONTRADICTED}"
    assert refused(run(*ACME)) == text
    result = run(*ACME, "--fork", "restored")
    assert (result.exit_code, "2 checkpoints, up to 4 leaves" in result.stderr) == (0, True)
    issue(signs=True)
    keys = stored_keys(bucket)
    assert len(keys) == 5
    assert len([key for key in keys if key.startswith("audit/acme/000000000004-")]) == 1


@ON_SQLITE
def test_a_bucket_that_is_gone_stops_signing(issue: Issue, engine: Engine, bucket: Any) -> None:
    issue(signs=True)
    (key,) = stored_keys(bucket)
    assert key == "audit/acme/000000000001.checkpoint"
    issue()
    for each in bucket("list_objects_v2")["Contents"]:
        bucket("delete_object", Key=each["Key"])
    bucket("delete_bucket")
    assert "no destination can be compared: s3://evidence/audit/: " in refused(run(*ACME))
    assert signed_sizes(engine) == [1]


@ON_SQLITE
def test_nonsense_in_a_bucket_is_no_comparison(issue: Issue, bucket: Any) -> None:
    issue(signs=True)
    bucket("put_object", Key="audit/acme/000000000009.checkpoint", Body=b"x" * 100_000)
    issue()
    assert "it is too long for a signed note" in refused(run(*ACME))


@ON_SQLITE
def test_a_new_empty_bucket_agrees(issue: Issue, bucket: Any) -> None:
    issue()
    assert run(*ACME).exit_code == 0
    assert stored_keys(bucket) == ["audit/acme/000000000001.checkpoint"]
