"""Tests `audit prove`: others verify its proofs, and what cannot be proven is refused."""

import base64
import importlib.util
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import metamorphic_log
import pytest
from sqlalchemy import Engine, text

from tests.integration.commands.audit.conftest import Issue, Run
from tests.integration.commands.audit.test_checkpoint import tamper
from tests.support.crypto.audit_proofs import SCRIPT, changed_proofs, run_verifier
from worker.core.tree.signed_note import SignerKey

Prove = Callable[..., dict[str, Any]]


@pytest.fixture
def prove(run: Run) -> Prove:
    """A function that returns the proof that the command prints."""

    def prove(*words: str) -> dict[str, Any]:
        result = run("prove", *words)
        assert (result.exit_code, result.stderr) == (0, "")
        proof: dict[str, Any] = json.loads(result.stdout)
        return proof

    return prove


@pytest.fixture
def since(run: Run, tmp_path: Path) -> Callable[[], str]:
    """A function that writes a checkpoint of acme to a file, and returns its path."""

    def write() -> str:
        path = tmp_path / "acme.checkpoint"
        assert run("checkpoint", "--tenant", "acme", "--out", str(path)).exit_code == 0
        return str(path)

    return write


@pytest.fixture(scope="module")
def verifier() -> ModuleType:
    """The auditors' script as a module, for what would take too many processes."""
    spec = importlib.util.spec_from_file_location("verify_audit_proof", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hashes(path: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in path]


def record_types(proof: dict[str, Any]) -> list[list[str]]:
    """The types of the proven records, by leaf."""
    return [
        [json.loads(proven["record"]).get("type", "item") for proven in leaf["proven"]]
        for leaf in proof["leaves"]
    ]


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
    run: Run,
    prove: Prove,
    key: SignerKey,
    issue: Issue,
    tmp_path: Path,
    item: int,
    types: list[list[str]],
) -> None:
    issue()
    batch = issue(items=5)
    issue(items=3)
    assert run("checkpoint").exit_code == 0
    issue()  # newer than the checkpoint
    proof = prove(f"{batch}.{item}")
    assert record_types(proof) == types
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(proof))
    result = run_verifier(path, str(key.verifier), tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        f"the grant {batch}.{item} is in the log audit.example.com/valetkey/acme" in result.stdout
    )
    assert f'"key": "acme/{item}.pdf"' in result.stdout


def test_the_script_for_auditors_verifies_that_a_log_continues_a_checkpoint(
    run: Run,
    prove: Prove,
    key: SignerKey,
    issue: Issue,
    since: Callable[[], str],
    tmp_path: Path,
) -> None:
    issue(items=5)
    path = since()
    issue(items=4)
    assert run("checkpoint").exit_code == 0
    (tmp_path / "proof.json").write_text(json.dumps(prove("--since", path)))
    result = run_verifier(tmp_path / "proof.json", str(key.verifier), tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "acme with 5 leaves continues the one with 3 leaves" in result.stdout


def test_an_independent_implementation_verifies_proofs_and_checkpoints(
    run: Run, prove: Prove, key: SignerKey, issue: Issue, since: Callable[[], str]
) -> None:
    batch = issue(items=7)
    path = since()
    issue(items=5)
    assert run("checkpoint").exit_code == 0
    keys = [str(key.verifier)]
    proof = prove(f"{batch}.6")
    head = metamorphic_log.checkpoint_verify(proof["checkpoint"], keys)
    assert (head.origin, head.size) == ("audit.example.com/valetkey/acme", 7)
    for leaf in proof["leaves"]:
        proven = leaf["proven"][0]
        record = sha256(b"\x00" + proven["record"].encode()).digest()
        root = inner_root(record, proven["position"], leaf["records"], hashes(proven["path"]))
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


def inner_root(leaf_hash: bytes, position: int, size: int, path: list[bytes]) -> bytes:
    """The root of the tree of a leaf's records, which the independent implementation confirms."""
    spec = importlib.util.spec_from_file_location("verify_audit_proof", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root: bytes = module.inclusion_root(leaf_hash, position, size, path)
    metamorphic_log.verify_inclusion(position, size, leaf_hash, path, root)
    return root


def test_the_script_refuses_a_proof_in_which_anything_was_changed(
    run: Run,
    prove: Prove,
    key: SignerKey,
    issue: Issue,
    since: Callable[[], str],
    verifier: ModuleType,
) -> None:
    batch = issue(items=5)
    path = since()
    issue(items=4)
    assert run("checkpoint").exit_code == 0
    public = verifier.parse_key(str(key.verifier))
    unnoticed = []
    for proof in (prove(f"{batch}.3"), prove("--since", path)):
        assert verifier.verify(proof, public)
        for place, changed in changed_proofs(proof):
            try:
                verifier.verify(changed, public)
            except (verifier.WrongProof, ValueError, KeyError):
                continue
            unnoticed.append(place)
    assert unnoticed == ["version", "version"]  # says only how to read the proof


def test_the_script_refuses_the_signature_of_another_key(
    run: Run, prove: Prove, key: SignerKey, issue: Issue, tmp_path: Path
) -> None:
    batch = issue()
    assert run("checkpoint").exit_code == 0
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(prove(f"{batch}.0")))
    other = str(SignerKey.generate(key.name).verifier)
    result = run_verifier(path, other, tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "WRONG: the key did not sign the checkpoint.\n"


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "\x00", '{"checkpoint": 1}'])
def test_the_script_names_what_is_no_proof(tmp_path: Path, key: SignerKey, content: str) -> None:
    path = tmp_path / "proof.json"
    path.write_text(content)
    result = run_verifier(path, str(key.verifier), tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: this is not a proof")


def test_a_tenant_can_be_named_with_the_grant(
    run: Run, prove: Prove, key: SignerKey, issue: Issue
) -> None:
    del key
    batch = issue()
    assert run("checkpoint").exit_code == 0
    assert prove(f"acme/{batch}.0") == prove(f"{batch}.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a GRANT, or a checkpoint with --since"),
        (["{batch}.0", "--since", "{empty}"], "give a GRANT, or a checkpoint with --since"),
        (["{batch}"], "BATCH.NUMBER"),
        (["{batch}.x"], "BATCH.NUMBER"),
        (["{batch}.-1"], "BATCH.NUMBER"),
        (["{batch}.9999999999"], "BATCH.NUMBER"),
        (["{batch}.3"], "the batch has 3 items: the last is 2"),
        (["{batch}.2"], "its chunk is not decided yet"),
        (["no-such-batch.0"], "no batch with this id"),
        (["amce/{batch}.0"], "Did you mean 'acme'?"),
        (["~config/{batch}.0"], "no batch with this id"),
        (["{newer}.0"], "newer than the newest checkpoint of acme: run"),
        (["--since", "missing"], "does not exist"),
        (["--since", "{empty}"], "is no checkpoint: it has no signature lines"),
        (["--since", "{binary}"], "is no checkpoint: it is not text"),
        (["--since", "{long}"], "is no checkpoint: it is too long"),
        (["--since", "{note}"], "is no checkpoint: its text is not the three lines"),
        (["--since", "{other}"], "no checkpoint of other.example.com/globex"),
        (["--since", "{origin}"], "of another log: other.example.com/acme"),
    ],
)
def test_what_cannot_be_proven_is_refused(
    run: Run, key: SignerKey, issue: Issue, tmp_path: Path, words: list[str], message: str
) -> None:
    root = base64.b64encode(bytes(32)).decode()
    values = {"batch": issue(items=3, chunks=1)}
    assert run("checkpoint").exit_code == 0
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
    result = run("prove", *(word.format(**values) for word in words))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_without_a_checkpoint_there_is_no_proof(run: Run, key: SignerKey, issue: Issue) -> None:
    del key
    result = run("prove", f"{issue()}.0")
    assert result.exit_code == 2
    assert "has no checkpoint: run `python -m worker audit checkpoint`" in result.stderr


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE grants SET object_key = 'acme/other.pdf'", "rows or leaves were changed"),
        ("UPDATE chunks SET expires_in = 1", "rows or leaves were changed"),
        ("UPDATE batches SET reason = NULL", "rows or leaves were changed"),
        ("UPDATE leaves SET hash = (SELECT max(hash) FROM leaves)", "rows or leaves were changed"),
        ("DELETE FROM leaves WHERE leaf_number = 0", "are missing that its checkpoint signs"),
    ],
)
def test_a_changed_log_is_not_proven(
    run: Run, key: SignerKey, issue: Issue, engine: Engine, statement: str, message: str
) -> None:
    del key
    issue()
    batch = issue()
    assert run("checkpoint").exit_code == 0
    tamper(engine, statement)
    result = run("prove", f"{batch}.0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_log_that_does_not_continue_a_checkpoint_is_named(
    run: Run, key: SignerKey, issue: Issue, engine: Engine, since: Callable[[], str]
) -> None:
    del key
    issue(items=5)
    path = since()
    issue()
    assert run("checkpoint").exit_code == 0
    tamper(engine, "UPDATE leaves SET hash = root FROM checkpoints WHERE leaf_number = 2")
    result = run("prove", "--since", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the log was rewritten" in result.stderr


def test_a_database_that_is_older_than_a_checkpoint_is_named(
    run: Run, key: SignerKey, issue: Issue, engine: Engine, since: Callable[[], str]
) -> None:
    del key
    issue()
    assert run("checkpoint").exit_code == 0
    issue()
    path = since()
    tamper(engine, "DELETE FROM checkpoints WHERE size = 2")
    result = run("prove", "--since", path)
    assert result.exit_code == 1
    assert "leaves were removed, or this is an older copy" in result.stderr


def test_pruned_rows_are_no_longer_proven(
    run: Run, key: SignerKey, issue: Issue, engine: Engine
) -> None:
    del key
    batch = issue(items=2)
    assert run("checkpoint").exit_code == 0
    tamper(engine, "DELETE FROM grants")
    result = run("prove", f"{batch}.0")
    assert result.exit_code == 2
    assert "the rows of the grant were pruned" in result.stderr
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM leaves WHERE tenant = 'acme'")) == 1
