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

from tests.integration.commands.audit.checkpoints.conftest import Issue, Prove, Run
from tests.support.crypto.audit_proofs import SCRIPT, changed_proofs, run_verifier
from worker.core.tree.signed_note import SignerKey


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
    assert result.stderr == "WRONG: no given key signed the checkpoint.\n"


def test_a_log_continues_over_the_replacement_of_its_key(
    run: Run,
    prove: Prove,
    key: SignerKey,
    issue: Issue,
    since: Callable[[], str],
    verifier: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issue()
    path = since()
    new = str(tmp_path / "new.key")
    created = run("key", "--new", new, "--replaces", str(tmp_path / "audit.key"))
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", new)
    issue()
    assert run("checkpoint").exit_code == 0
    proof = prove("--since", path)
    keys = [verifier.parse_key(text) for text in (str(key.verifier), created.stdout)]
    assert verifier.verify(proof, keys)
    for known in keys:  # each signed one of the two checkpoints
        with pytest.raises(verifier.WrongProof, match="no given key signed"):
            verifier.verify(proof, [known])


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "\x00", '{"checkpoint": 1}'])
def test_the_script_names_what_is_no_proof(tmp_path: Path, key: SignerKey, content: str) -> None:
    path = tmp_path / "proof.json"
    path.write_text(content)
    result = run_verifier(path, str(key.verifier), tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: this is not a proof")


def test_the_script_names_a_file_or_key_that_it_cannot_read(tmp_path: Path, key: SignerKey) -> None:
    missing = run_verifier(tmp_path / "nothing.json", str(key.verifier), tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.endswith("nothing.json cannot be read: No such file or directory.\n")
    wrong_key = run_verifier(tmp_path / "nothing.json", "x", tmp_path)
    assert (wrong_key.returncode, wrong_key.stdout) == (2, "")
    assert wrong_key.stderr.startswith("Error: --key: ")


def test_a_tenant_can_be_named_with_the_grant(
    run: Run, prove: Prove, key: SignerKey, issue: Issue
) -> None:
    del key
    batch = issue()
    assert run("checkpoint").exit_code == 0
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
