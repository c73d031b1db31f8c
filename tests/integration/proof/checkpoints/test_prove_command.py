"""Tests `audit prove`: others verify its proofs, and what cannot be proven is refused."""

import base64
import importlib.util
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import metamorphic_log
import pytest
from sqlalchemy import Engine, text

from tests.integration.proof.checkpoints.conftest import Issue, prove, write_checkpoint
from tests.support.cli.operator import ON_SQLITE, refusal
from tests.support.cli.operator import run_audit as run
from tests.support.crypto.audit_proofs import SCRIPT, changed_proofs, run_verifier, tamper
from worker.proof.checkpoint_format import SignerKey

Verify = Callable[..., CompletedProcess[str]]
NO_PROOFS = ["", "{}", "[]", "null", "\x00", '{"checkpoint": 1}']


@pytest.fixture(scope="module")
def verifier() -> ModuleType:
    """The auditors' script as a module, for what would take too many processes."""
    spec = importlib.util.spec_from_file_location("verify_audit_proof", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def verify(key: SignerKey, tmp_path: Path) -> Verify:
    """A function that runs the script on a file with some content, with the log's key."""

    def verify(content: str | None, public: str | None = None) -> CompletedProcess[str]:
        path = tmp_path / "proof.json"
        if content is not None:
            path.write_text(content)
        return run_verifier(path, public or str(key.verifier), tmp_path)

    return verify


def hashes(path: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in path]


@pytest.mark.parametrize(
    ("item", "types"),
    [
        (0, [["item", "chunk", "batch"]]),
        (1, [["item", "chunk", "batch"]]),
        (2, [["item", "chunk"], ["chunk", "batch"]]),
        (4, [["item", "chunk"], ["chunk", "batch"]]),
    ],
)
def test_the_script_for_auditors_verifies_a_grant(
    verify: Verify, issue: Issue, item: int, types: list[list[str]]
) -> None:
    issue()
    batch = issue(items=5)
    issue(items=3, signs=True)
    issue()  # newer than the checkpoint
    proof = prove(f"{batch}.{item}")
    for leaf, expected in zip(proof["leaves"], types, strict=True):
        records = (json.loads(proven["record"]) for proven in leaf["proven"])
        assert [record.get("type", "item") for record in records] == expected
    result = verify(json.dumps(proof))
    assert (result.returncode, result.stderr) == (0, "")
    words = f"the grant {batch}.{item} is in the log audit.example.com/valetkey/acme"
    assert words in result.stdout
    assert f'"key": "acme/{item}.pdf"' in result.stdout


def test_the_script_for_auditors_verifies_that_a_log_continues_a_checkpoint(
    verify: Verify, issue: Issue, tmp_path: Path
) -> None:
    issue(items=5)
    path = write_checkpoint(tmp_path)
    issue(items=4, signs=True)
    result = verify(json.dumps(prove("--since", path)))
    assert (result.returncode, result.stderr) == (0, "")
    assert "acme with 5 leaves continues the one with 3 leaves" in result.stdout


def test_an_independent_implementation_verifies_proofs_and_checkpoints(
    key: SignerKey, issue: Issue, tmp_path: Path, verifier: ModuleType
) -> None:
    batch = issue(items=7)
    path = write_checkpoint(tmp_path)
    issue(items=5, signs=True)
    keys = [str(key.verifier)]
    proof = prove(f"{batch}.6")
    head = metamorphic_log.checkpoint_verify(proof["checkpoint"], keys)
    assert (head.origin, head.size) == ("audit.example.com/valetkey/acme", 7)
    for leaf in proof["leaves"]:
        proven = leaf["proven"][0]
        record = sha256(b"\x00" + proven["record"].encode()).digest()
        inner = hashes(proven["path"])
        root = verifier.inclusion_root(record, proven["position"], leaf["records"], inner)
        metamorphic_log.verify_inclusion(proven["position"], leaf["records"], record, inner, root)
        leaf_hash = sha256(b"\x00" + root).digest()
        metamorphic_log.checkpoint_verify_inclusion(
            proof["checkpoint"], keys, leaf["leaf"], leaf_hash, hashes(leaf["path"])
        )
        with pytest.raises(metamorphic_log.VerifyError):
            metamorphic_log.checkpoint_verify_inclusion(
                proof["checkpoint"], keys, leaf["leaf"], bytes(32), hashes(leaf["path"])
            )
    consistency = prove("--since", path)
    notes = consistency["since"], consistency["checkpoint"]
    metamorphic_log.checkpoint_verify_consistency(*notes, keys, hashes(consistency["path"]))
    with pytest.raises(metamorphic_log.VerifyError):
        metamorphic_log.checkpoint_verify_consistency(*notes, keys, [])


def test_the_script_refuses_a_proof_in_which_anything_was_changed(
    key: SignerKey, issue: Issue, tmp_path: Path, verifier: ModuleType
) -> None:
    batch = issue(items=5)
    path = write_checkpoint(tmp_path)
    issue(items=4, signs=True)
    public = [verifier.parse_key(str(key.verifier))]
    unnoticed = []
    for proof in (prove(f"{batch}.3"), prove("--since", path)):
        assert verifier.verify(proof, public)
        for place, changed in changed_proofs(proof):
            try:
                verifier.verify(changed, public)
            except (verifier.WrongProof, ValueError, KeyError):
                continue
            unnoticed.append(place)
    assert unnoticed == []


def test_the_script_refuses_the_signature_of_another_key(
    verify: Verify, key: SignerKey, issue: Issue
) -> None:
    proof = json.dumps(prove(f"{issue(signs=True)}.0"))
    result = verify(proof, str(SignerKey.generate(key.name).verifier))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "WRONG: no given key signed the checkpoint.\n"


def test_a_log_continues_over_the_replacement_of_its_key(
    key: SignerKey,
    issue: Issue,
    verifier: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issue()
    path = write_checkpoint(tmp_path)
    new = str(tmp_path / "new.key")
    created = run("key", "--new", new, "--replaces", str(tmp_path / "audit.key"))
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", new)
    issue(signs=True)
    proof = prove("--since", path)
    keys = [verifier.parse_key(text) for text in (str(key.verifier), created.stdout)]
    assert verifier.verify(proof, keys)
    for known in keys:  # each signed one of the two checkpoints
        with pytest.raises(verifier.WrongProof, match="no given key signed"):
            verifier.verify(proof, [known])


@pytest.mark.parametrize(
    ("content", "public", "error"),
    [
        *((text, None, "this is not a proof") for text in NO_PROOFS),
        (None, None, "{path} cannot be read: No such file or directory.\n"),
        (None, "x", "--key: "),
    ],
)
def test_the_script_names_what_it_cannot_read(
    verify: Verify, tmp_path: Path, content: str | None, public: str | None, error: str
) -> None:
    result = verify(content, public)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {error}".format(path=tmp_path / "proof.json"))


def test_a_tenant_can_be_named_with_the_grant(issue: Issue) -> None:
    batch = issue(signs=True)
    assert prove(f"acme/{batch}.0") == prove(f"{batch}.0")


@pytest.mark.parametrize(
    "record", ['{"item":1,"item":0,"key":"k"}', '{"item": 0,"key":"k"}', '{"key":"k","item":0}']
)
def test_the_script_for_auditors_reads_a_record_in_one_way(
    verifier: ModuleType, record: str
) -> None:
    root = verifier.hash_leaf(record.encode())
    proven = [{"position": 0, "record": record, "path": []}]
    leaf = {"leaf": 0, "path": [], "records": 1, "proven": proven}
    checkpoint = verifier.Checkpoint("origin", 1, verifier.hash_leaf(root))
    with pytest.raises(verifier.WrongProof, match="canonical"):
        verifier.verify_leaf(leaf, checkpoint)


CHANGED = "rows or leaves were changed"


@ON_SQLITE
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a GRANT, or a checkpoint with --since"),
        (["{batch}.0", "--since", "{empty}"], "give a GRANT, or a checkpoint with --since"),
        (["{batch}"], "BATCH.NUMBER"),
        (["{batch}.x"], "BATCH.NUMBER"),
        (["{batch}.9999999999"], "BATCH.NUMBER"),
        (["{batch}.3"], "the batch has 3 items: the last is 2"),
        (["{batch}.2"], "its chunk is not decided yet"),
        (["no-such-batch.0"], "no batch with this id"),
        (["amce/{batch}.0"], "did you mean 'acme'?"),
        (["~config/{batch}.0"], "no batch with this id"),
        (["{newer}.0"], "newer than the newest checkpoint of acme: run"),
        (["--since", "missing"], "cannot be read: No such file"),
        (["--since", "{empty}"], "is no checkpoint: it has no signature lines"),
        (["--since", "{binary}"], "is no checkpoint: it is not text"),
        (["--since", "{long}"], "is no checkpoint: it is too long"),
        (["--since", "{note}"], "is no checkpoint: its text is not the three lines"),
        (["--since", "{other}"], "no checkpoint of other.example.com/globex"),
        (["--since", "{origin}"], "of another log: other.example.com/acme"),
    ],
)
def test_what_cannot_be_proven_is_refused(
    key: SignerKey, issue: Issue, tmp_path: Path, words: list[str], message: str
) -> None:
    root = base64.b64encode(bytes(32)).decode()
    values = {"batch": issue(items=3, chunks=1, signs=True)}
    values["newer"] = issue()
    contents = {
        "empty": b"",
        "binary": b"\xff" * 10,
        "long": b"x" * 100_000,
        "note": key.sign("a text\n").encode(),
        "other": key.sign(f"other.example.com/globex\n1\n{root}\n").encode(),
        "origin": key.sign(f"other.example.com/acme\n1\n{root}\n").encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        values[name] = str(tmp_path / name)
    assert message in refusal(run("prove", *(word.format(**values) for word in words)))


def test_without_a_checkpoint_there_is_no_proof(issue: Issue) -> None:
    error = refusal(run("prove", f"{issue()}.0"))
    assert "has no checkpoint: run `python -m worker audit checkpoint`" in error


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE grants SET object_key = 'acme/other.pdf'", CHANGED),
        ("UPDATE chunks SET expires_in = 1", CHANGED),
        ("UPDATE batches SET reason = NULL", CHANGED),
        ("UPDATE leaves SET hash = (SELECT hash FROM leaves WHERE tenant = '~config')", CHANGED),
        ("DELETE FROM leaves WHERE leaf_number = 0", "are missing that its checkpoint signs"),
    ],
)
def test_a_changed_log_is_not_proven(
    issue: Issue, engine: Engine, statement: str, message: str
) -> None:
    issue()
    batch = issue(signs=True)
    tamper(engine, statement)
    result = run("prove", f"{batch}.0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_log_that_does_not_continue_a_checkpoint_is_named(
    issue: Issue, engine: Engine, tmp_path: Path
) -> None:
    issue(items=5)
    path = write_checkpoint(tmp_path)
    issue(signs=True)
    tamper(engine, "UPDATE leaves SET hash = root FROM checkpoints WHERE leaf_number = 2")
    result = run("prove", "--since", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the log was rewritten" in result.stderr


def test_a_database_that_is_older_than_a_checkpoint_is_named(
    issue: Issue, engine: Engine, tmp_path: Path
) -> None:
    issue(signs=True)
    issue()
    path = write_checkpoint(tmp_path)
    tamper(engine, "DELETE FROM checkpoints WHERE size = 2")
    result = run("prove", "--since", path)
    assert result.exit_code == 1
    assert "leaves were removed, or this is an older copy" in result.stderr


def test_pruned_rows_are_no_longer_proven(issue: Issue, engine: Engine) -> None:
    batch = issue(items=2, signs=True)
    tamper(engine, "DELETE FROM grants")
    assert "the rows of the grant were pruned" in refusal(run("prove", f"{batch}.0"))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM leaves WHERE tenant = 'acme'")) == 1
