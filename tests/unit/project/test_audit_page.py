"""docs/reference/record.md: its members are those of the models; its example and program work."""

import base64
import json
import re
from contextlib import nullcontext
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import JSON, Column, Integer, LargeBinary, String, Table

import models
from models import Base
from models.base import Instant
from tests.support.crypto.audit_proofs import run_verifier
from tests.support.docs.command_lines import ROOT
from tests.support.docs.record_verifier import KEYS, verify_proof
from valetkey.wire.messages import CancelMessage, ChunkMessage
from worker.ledger.merkle import RightEdge, encode_record, item_record
from worker.proof.checkpoint_format import CheckpointText, SignerKey
from worker.proof.merkle_proofs import consistency_ranges, inclusion_ranges, subtree_roots
from worker.proof.verify.tree_check import SHAPES
from worker.rules.annotations import SaltedTexts

TYPES = ("text", "number", "time", "bytes", "JSON", "commitment")
ITEM = "item"

Members = dict[str, tuple[str, bool]]
"""The type of each member of a record, and whether it can be absent."""


def documented_members(page: str) -> dict[str, Members]:
    """Return the members of each type of record; those of an item under `item`."""
    rows = re.findall(r"^\| (?:`(\w+)`|none: an item) \| (`\w+`\?? .+) \|$", page, re.MULTILINE)
    members = {kind or ITEM: _parse_members(cell) for kind, cell in rows}
    return {kind: found for kind, found in members.items() if found}


def _parse_members(cell: str) -> Members:
    members = re.findall(rf"`(\w+)`(\??) ({'|'.join(TYPES)})\b", cell)
    return {name: (type_, mark == "?") for name, mark, type_ in members}


def load_program(page: str) -> SimpleNamespace:
    """Return the functions of the page's program."""
    (text,) = re.findall(r"^```python\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(text, "record_hashes.py", "exec"), names)  # noqa: S102 - the page's own code
    return SimpleNamespace(**names)


PAGE = (ROOT / "docs" / "reference" / "record.md").read_text(encoding="utf-8")
MEMBERS = documented_members(PAGE)
INCLUSION, CONSISTENCY = map(
    json.loads, re.findall(r"^```json\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
RECORDS, KEY = (
    block.splitlines()
    for block in re.findall(r"^```text\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
HASHES = dict(re.findall(r"^\| (.+?) \| `([0-9a-f]{64,})` \|$", PAGE, re.MULTILINE))

MODELS: dict[str, type[Base]] = {
    "chunk": models.Chunk,
    "batch": models.Batch,
    "reissue": models.Reissue,
    "settlement": models.Settlement,
    "cancellation": models.Cancellation,
    "use": models.Use,
    "revocation": models.Revocation,
    "erasure": models.Erasure,
    "prune": models.Prune,
    "config": models.ConfigChange,
}
MESSAGES: dict[str, Any] = {"batch": ChunkMessage, "cancellation": CancelMessage}
VALUES = {"text": "a", "number": 1, "time": datetime.now(UTC), "bytes": b"a", "JSON": {"a": 1}}


def table_of(model: type[Base]) -> Table:
    return model.metadata.tables[model.__tablename__]


def column_type(column: Column[Any]) -> str:
    types: dict[type[Any], str] = {
        Instant: "time",
        JSON: "JSON",
        LargeBinary: "bytes",
        Integer: "number",
        String: "text",
    }
    return next(name for type_, name in types.items() if isinstance(column.type, type_))


def is_optional(kind: str, column: Column[Any]) -> bool:
    """Return whether a record can lack a column; an erased text still has a commitment."""
    message = MESSAGES.get(kind)
    is_commitment = f"{column.name}_salt" in column.table.columns
    if message is not None and is_commitment:
        return not message.model_fields[column.name].is_required()
    return bool(column.nullable)


SALT = b"s" * 16


def recorded_members(kind: str) -> Members:
    """Return the members of the records that the code makes of rows of a model."""
    table = table_of(MODELS[kind])
    own = {"tenant": "a", "batch_id": "a"} if is_joined(table) else {}
    row = {column.name: VALUES[column_type(column)] for column in table.columns}
    row |= {name: SALT for name in row if name.endswith("_salt")}
    record = json.loads(encode_record(kind, row, **own))
    assert record.pop("type") == kind
    members = {}
    for name in record:
        column = None if name in own else table.columns[name]
        if column is None:
            members[name] = "text", False
        elif f"{name}_salt" in row:
            assert record[name] == sha256(SALT + b"a").hexdigest()
            members[name] = "commitment", is_optional(kind, column)
        else:
            members[name] = column_type(column), is_optional(kind, column)
    return members


def is_joined(table: Table) -> bool:
    """Return whether a row gets the tenant and the id of its batch from the batch."""
    return "batch_number" in table.columns and table.name != "batches"


@pytest.mark.parametrize("kind", MODELS)
def test_the_members_of_a_record_are_those_of_the_table(kind: str) -> None:
    assert MEMBERS[kind] == recorded_members(kind)


def test_a_column_that_is_null_has_no_member() -> None:
    columns = table_of(models.Use).columns
    row = {c.name: None if c.nullable else VALUES[column_type(c)] for c in columns}
    expected = {name for name, (_, optional) in MEMBERS["use"].items() if not optional}
    assert set(json.loads(encode_record("use", row, batch_id="a"))) - {"type"} == expected


def test_the_members_of_an_item_are_those_of_its_rows() -> None:
    texts = SaltedTexts("a", b"s" * 16, "b", b"s" * 16, "c", b"s" * 16)
    whole = json.loads(item_record((1, "k", "c", {"a": 1}, b"d"), texts))
    least = json.loads(item_record((1, "k", None, None, None)))
    names = {"item_number": "item", "object_key": "key"}
    types = {
        names.get(column.name, column.name): column_type(column)
        for column in table_of(models.Grant).columns
        if column.name != "batch_number"
    }
    assert MEMBERS[ITEM] == {
        name: (types.get(name, "commitment"), name not in least) for name in whole
    }


def test_the_leaves_name_their_rows_as_the_page_says() -> None:
    names_rows = r"^\| `(\w+)` \| (`(?:batch_number|reference)`.*?) \| .+ \|$"
    rows = re.findall(names_rows, PAGE, re.MULTILINE)
    names = ("`batch_number`", "`chunk_number`", "`reference`")
    assert {kind: tuple(name in cell for name in names) for kind, cell in rows} == SHAPES


def test_the_page_lists_all_tables_that_no_leaf_covers() -> None:
    listed = PAGE.partition("\nNo leaf covers these tables.")[2]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(Base.metadata.tables.keys() - KEYS)


@pytest.fixture(scope="module")
def program() -> SimpleNamespace:
    """The functions of the page's program."""
    return load_program(PAGE)


def test_the_hashes_of_the_example_follow_from_its_records(program: SimpleNamespace) -> None:
    hashes = [program.leaf_hash(record.encode()) for record in RECORDS]
    leaves = [bytes.fromhex(value) for name, value in HASHES.items() if "`leaves.hash`" in name]
    edge = program.append(0, [], leaves[0])
    for size, leaf in enumerate(leaves[1:], 1):
        edge = program.append(size, edge, leaf)
    computed = [
        *hashes,
        program.root(hashes),
        program.hash_of_leaf([record.encode() for record in RECORDS]),
        *leaves[1:],
        program.root(leaves),
        b"".join(edge),
    ]
    assert [value.hex() for value in computed] == list(HASHES.values())
    assert program.root_of_edge(edge) == program.root(leaves)


def test_the_commitment_of_the_example_follows_from_the_salt_and_the_text() -> None:
    ((salt, text),) = re.findall(r"`SHA-256\((\w+) ‖ \"(.+?)\"\)`", PAGE)
    value = sha256(bytes.fromhex(salt) + text.encode()).hexdigest()
    assert json.loads(RECORDS[0])["recipient"] == value
    assert f"`{value}`" in PAGE


def test_the_proof_of_the_example_leads_to_its_root(program: SimpleNamespace) -> None:
    (leaf,) = INCLUSION["leaves"]
    assert [proven["record"] for proven in leaf["proven"]] == RECORDS
    for proven in leaf["proven"]:
        path = decode(proven["path"])
        record_hash = program.leaf_hash(proven["record"].encode())
        inner = program.inclusion_root(record_hash, proven["position"], leaf["records"], path)
        assert inner.hex() == HASHES["inner root"]
    size, root = head(INCLUSION["checkpoint"])
    inner_hash = program.leaf_hash(bytes.fromhex(HASHES["inner root"]))
    assert program.inclusion_root(inner_hash, leaf["leaf"], size, decode(leaf["path"])) == root
    assert root.hex() == HASHES["root of the tree of these three"]


def test_the_consistency_of_the_example_leads_to_both_roots(program: SimpleNamespace) -> None:
    old_size, old_root = head(CONSISTENCY["since"])
    new_size, new_root = head(CONSISTENCY["checkpoint"])
    path = decode(CONSISTENCY["path"])
    roots = program.consistent_roots(old_size, new_size, path, old_root)
    assert roots == (old_root, new_root)


@pytest.mark.parametrize("proof", [INCLUSION, CONSISTENCY], ids=lambda proof: str(proof["proof"]))
def test_the_script_for_auditors_verifies_the_example(proof: Any, tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(proof))
    result = run_verifier(path, KEY[0], tmp_path)
    assert (result.returncode, result.stdout[:6]) == (0, "Right:"), result.stderr


def test_a_proof_without_the_texts_is_as_good(tmp_path: Path) -> None:
    proof = json.loads(json.dumps(INCLUSION))
    for proven in proof["leaves"][0]["proven"]:
        del proven["texts"]
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(proof))
    result = run_verifier(path, KEY[0], tmp_path)
    assert (result.returncode, "ann@example.com" in result.stdout) == (0, False), result.stderr


def test_the_beginning_of_a_text_cannot_be_the_end_of_its_salt(tmp_path: Path) -> None:
    proof = json.loads(json.dumps(INCLUSION))
    opening = proof["leaves"][0]["proven"][0]["texts"]["recipient"]
    opening["salt"] += opening["text"][:4].encode().hex()
    opening["text"] = opening["text"][4:]
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(proof))
    result = run_verifier(path, KEY[0], tmp_path)
    assert result.returncode == 1
    assert "the salt of recipient has another length" in result.stderr


def signed_proof(program: SimpleNamespace, records: list[str], signer: SignerKey) -> Any:
    """Return a proof of records that are a leaf, the only one of a tree, in this order."""
    hashes = [program.leaf_hash(record.encode()) for record in records]
    root = program.hash_of_leaf([record.encode() for record in records])
    text = CheckpointText(f"{signer.name}/acme", 1, root)
    proven = []
    for position, record in enumerate(records):
        path = subtree_roots(inclusion_ranges(position, len(records)), hashes)
        encoded = [base64.b64encode(each).decode() for each in path]
        proven.append({"position": position, "record": record, "path": encoded})
    leaf = {"leaf": 0, "path": [], "records": len(records), "proven": proven}
    proof = {name: INCLUSION[name] for name in ("proof", "version", "tenant")}
    item = next(json.loads(record)["item"] for record in records if '"item"' in record)
    grant = f"{json.loads(RECORDS[1])['batch_id']}.{item}"
    return proof | {"grant": grant, "checkpoint": signer.sign(str(text)), "leaves": [leaf]}


SECOND_ITEM = RECORDS[0].replace('"item":0', '"item":1')
TWO_ITEMS = [RECORDS[0], SECOND_ITEM, RECORDS[1].replace('"issued":1', '"issued":2'), RECORDS[2]]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (RECORDS, None),
        ([RECORDS[1], RECORDS[0], RECORDS[2]], "a record has another position"),
        ([RECORDS[0], RECORDS[2], RECORDS[1]], "a record has another position"),
        ([RECORDS[0], *RECORDS], "a record has another position"),
        (TWO_ITEMS, None),
        ([SECOND_ITEM, *RECORDS[1:]], "the item has another position"),
    ],
)
def test_the_records_of_a_proof_have_their_positions(
    program: SimpleNamespace, tmp_path: Path, records: list[str], message: str | None
) -> None:
    signer = SignerKey.generate("audit.example.com/valetkey")
    proof = signed_proof(program, records, signer)
    if len(records) == 4:  # of the items, only the first is proven
        del proof["leaves"][0]["proven"][1]
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(proof))
    result = run_verifier(path, str(signer.verifier), tmp_path)
    assert result.returncode == (0 if message is None else 1)
    assert (message or "Right:") in result.stdout + result.stderr
    with (
        nullcontext() if message is None else pytest.raises(ValueError, match="the proof is wrong")
    ):
        verify_proof(proof, [str(signer.verifier)])


@pytest.mark.parametrize("size", range(1, 18))
def test_the_program_computes_every_path_as_the_service_does(
    program: SimpleNamespace, size: int
) -> None:
    hashes = [program.leaf_hash(bytes([number])) for number in range(size)]
    edge = RightEdge.of(hashes)
    assert program.root(hashes) == edge.root()
    assert program.append(size, list(edge.hashes), hashes[0]) == list(edge.append(hashes[0]).hashes)
    for position in range(size):
        path = subtree_roots(inclusion_ranges(position, size), hashes)
        found = program.inclusion_root(hashes[position], position, size, path)
        assert found == edge.root()
    for old in range(1, size + 1):
        path = subtree_roots(consistency_ranges(old, size), hashes)
        old_root = program.root(hashes[:old])
        roots = program.consistent_roots(old, size, path, old_root)
        assert roots == (old_root, edge.root())


def decode(path: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in path]


def head(note: str) -> tuple[int, bytes]:
    _, size, root, *_ = note.split("\n")
    return int(size), base64.b64decode(root)
