"""Verify a proof that `python -m worker audit prove` printed.

Needs Python 3.11 and the package cryptography, and nothing of the service:

    python verify_audit_proof.py --key NAME+ID+KEY proof.json

The key is the public key that the operators of the log gave to you before. Repeat --key if it was
replaced: each checkpoint needs the signature of one of the keys. Exits with 0 if the
proof is right, with 1 if it is wrong, and with 2 if it cannot be read.

A proof of a grant contains the records of the grant's item, chunk and batch. They are printed if
the log that the key signed contains them. Hashes and proofs are those of RFC 9162, checkpoints
those of c2sp.org/tlog-checkpoint, and their signatures those of c2sp.org/signed-note.
"""

import argparse
import base64
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

VERSION = 1
ED25519 = b"\x01"
HASH_BYTES = 32
SALT_BYTES = 16
TEXTS = {"requested_by", "recipient", "reason", "ref"}


class WrongProof(Exception):
    """The proof does not prove what it claims."""


class Key(NamedTuple):
    """A public key: its name, the id in its signatures, and its bytes."""

    name: str
    id: bytes
    public: bytes


class Checkpoint(NamedTuple):
    """The signed head of a tree."""

    origin: str
    size: int
    root: bytes


def parse_key(text: str) -> Key:
    """Parse NAME+ID+KEY. Raises WrongProof."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    data = decode(encoded)
    expected = sha256(name.encode() + b"\n" + data).digest()[:4]
    if not name or data[:1] != ED25519 or len(data) != 1 + HASH_BYTES or key_id != expected.hex():
        raise WrongProof("the key is not NAME+ID+KEY, with an Ed25519 key")
    return Key(name, expected, data[1:])


def decode(text: str) -> bytes:
    """Decode base64. Raises WrongProof."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = None
    if data is None or base64.b64encode(data).decode() != text:
        raise WrongProof("a part of the proof is not base64")
    return data


def verify_checkpoint(note: str, keys: list[Key], tenant: str) -> Checkpoint:
    """Return what a tenant's checkpoint says, if one of the keys signed it. Raises WrongProof."""
    body, separator, lines = note.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise WrongProof("the checkpoint is not a signed note")
    names = set()
    for line in lines.removesuffix("\n").split("\n"):
        dash, name, encoded = (*line.split(" "), "", "")[:3]
        signature = decode(encoded)
        for key in keys:  # other lines are signatures of witnesses, or of other keys
            if (dash, name, signature[:4]) == ("\u2014", key.name, key.id):
                check_signature(key, signature[4:], f"{body}\n")
                names.add(name)
    if not names:
        raise WrongProof("no given key signed the checkpoint")
    origin, size, root = (*body.split("\n"), "", "")[:3]
    is_size = size.isascii() and size.isdecimal() and (size == "0" or size[0] != "0")
    if len(body.split("\n")) != 3 or not is_size:  # noqa: PLR2004
        raise WrongProof("the signed text is not a checkpoint")
    if origin not in {f"{name}/{tenant}" for name in names}:
        raise WrongProof("the checkpoint is of another log")
    return Checkpoint(origin, int(size), check_hash(decode(root)))


def check_signature(key: Key, signature: bytes, text: str) -> None:
    """Raise WrongProof unless a key signed a text."""
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
    except InvalidSignature:
        raise WrongProof("the signature of the checkpoint is wrong") from None


def check_hash(data: bytes) -> bytes:
    """Return a hash. Raises WrongProof for bytes that are none."""
    if len(data) != HASH_BYTES:
        raise WrongProof("a hash has another length")
    return data


def hash_leaf(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node."""
    return sha256(b"\x01" + left + right).digest()


def inclusion_root(leaf_hash: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Return the root to which an inclusion path leads (RFC 9162, 2.1.3.2). Raises WrongProof."""
    if not 0 <= index < size:
        raise WrongProof("the tree has no such leaf")
    number, last, root = index, size - 1, leaf_hash
    for sibling in path:
        if last == 0:
            raise WrongProof("a path is too long")
        if number % 2 or number == last:
            root = hash_children(sibling, root)
            while number % 2 == 0 and number:
                number, last = number >> 1, last >> 1
        else:
            root = hash_children(root, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise WrongProof("a path is too short")
    return root


def verify_consistency(old: Checkpoint, new: Checkpoint, path: list[bytes]) -> None:
    """Raise WrongProof unless the new tree continues the old one (RFC 9162, 2.1.4.2)."""
    if old.size > new.size:
        raise WrongProof("the newer checkpoint has fewer leaves")
    if old.size in {0, new.size}:
        expected = new.root if old.size == new.size else sha256().digest()
        is_right = not path and old.root == expected
    else:
        is_power_of_two = old.size & (old.size - 1) == 0
        hashes = [old.root, *path] if is_power_of_two else path
        is_right = consistent_roots(old.size, new.size, hashes) == (old.root, new.root)
    if not is_right:
        raise WrongProof("the log does not continue the older checkpoint")


def consistent_roots(old_size: int, new_size: int, hashes: list[bytes]) -> tuple[bytes, bytes]:
    """Return the roots of both trees, to which a consistency path leads. Raises WrongProof."""
    number, last = old_size - 1, new_size - 1
    while number % 2:
        number, last = number >> 1, last >> 1
    if not hashes:
        raise WrongProof("the path is too short")
    old_root = new_root = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise WrongProof("the path is too long")
        if number % 2 or number == last:
            old_root = hash_children(sibling, old_root)
            new_root = hash_children(sibling, new_root)
            while number % 2 == 0 and number:
                number, last = number >> 1, last >> 1
        else:
            new_root = hash_children(new_root, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise WrongProof("the path is too short")
    return old_root, new_root


def verify_leaf(leaf: dict[str, Any], checkpoint: Checkpoint) -> dict[int, dict[str, Any]]:
    """Return the records that a leaf proves, by position. Raises WrongProof."""
    records, root = {}, None
    for proven in leaf["proven"]:
        data = proven["record"].encode()
        position, path = proven["position"], [check_hash(decode(each)) for each in proven["path"]]
        found = inclusion_root(hash_leaf(data), position, leaf["records"], path)
        if root not in {None, found}:
            raise WrongProof("the records are not of one leaf")
        root = found
        records[position] = open_texts(parse_record(proven["record"]), proven.get("texts", {}))
    if root is None:
        raise WrongProof("a leaf proves no record")
    path = [check_hash(decode(each)) for each in leaf["path"]]
    if inclusion_root(hash_leaf(root), leaf["leaf"], checkpoint.size, path) != checkpoint.root:
        raise WrongProof("the records are not in the log")
    check_positions(records, leaf["records"])
    return records


def check_positions(records: dict[int, dict[str, Any]], size: int) -> None:
    """Raise WrongProof unless the last records of a leaf are the chunk, and the batch if any."""
    positions = {record.get("type"): position for position, record in records.items()}
    if "chunk" not in positions:
        raise WrongProof("the proof has no record of the chunk")
    chunk = records[positions["chunk"]]
    count = chunk["issued"] + chunk["refused"]
    has_batch = "batch" in positions
    last = (positions["chunk"], positions.get("batch"))
    if last != (count, count + 1 if has_batch else None) or size != count + 1 + has_batch:
        raise WrongProof("a record has another position")


def parse_record(text: str) -> dict[str, Any]:
    """Parse a record. Raises WrongProof unless it is spelled as the log spells it: names once."""
    record: dict[str, Any] = json.loads(text)
    if json.dumps(sort_names(record), separators=(",", ":"), ensure_ascii=False) != text:
        raise WrongProof("a record is not canonical JSON")
    return record


def sort_names(value: Any) -> Any:
    """Return a JSON value with all names sorted by UTF-16 code units (RFC 8785, 3.2.3)."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return {name: sort_names(value[name]) for name in names}
    return [sort_names(each) for each in value] if isinstance(value, list) else value


def open_texts(record: dict[str, Any], texts: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return a record with texts in place of the commitments to them. Raises WrongProof.

    A text that was erased has none: its commitment stays.
    """
    for name, opening in texts.items():
        salt = bytes.fromhex(opening["salt"])
        if name not in TEXTS:  # a key that looks like a hash is no commitment
            raise WrongProof(f"{name} is no text that has a salt")
        if len(salt) != SALT_BYTES:  # a longer one could have the beginning of the text
            raise WrongProof(f"the salt of {name} has another length")
        if record.get(name) != sha256(salt + opening["text"].encode()).hexdigest():
            raise WrongProof(f"the text of {name} is not the one that was recorded")
    return record | {name: opening["text"] for name, opening in texts.items()}


def verify_inclusion(proof: dict[str, Any], checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return the records of the item, of its chunk and of its batch. Raises WrongProof."""
    batch_id, _, number = proof["grant"].rpartition(".")
    records, *others = [verify_leaf(leaf, checkpoint) for leaf in proof["leaves"]]
    items = [(position, item) for position, item in records.items() if "type" not in item]
    position, item = items[0] if items else (-1, {})
    chunk = find_record([records], "chunk")
    batch = find_record([records, *others], "batch")
    if str(item.get("item")) != number:
        raise WrongProof("the proof is of another item")
    for record in (chunk, batch, *(find_record([leaf], "chunk") for leaf in others)):
        if (record["tenant"], record["batch_id"]) != (proof["tenant"], batch_id):
            raise WrongProof("the proof is of another batch")
    if batch["chunk_size"] < 1 or int(number) // batch["chunk_size"] != chunk["chunk_number"]:
        raise WrongProof("the proof is of another chunk")
    if position != int(number) % batch["chunk_size"]:
        raise WrongProof("the item has another position")
    return [item, chunk, batch]


def find_record(leaves: list[dict[int, dict[str, Any]]], kind: str) -> dict[str, Any]:
    """Return the record of a kind. Raises WrongProof if there is none."""
    for records in leaves:
        for record in records.values():
            if record.get("type") == kind:
                return record
    raise WrongProof(f"the proof has no record of the {kind}")


def verify(proof: dict[str, Any], keys: list[Key]) -> list[str]:
    """Verify a proof, and return lines that say what it proves. Raises WrongProof."""
    if proof["version"] != VERSION:
        raise WrongProof("it has another version than this script reads")
    checkpoint = verify_checkpoint(proof["checkpoint"], keys, proof["tenant"])
    head = f"{checkpoint.origin} with {checkpoint.size:,} leaves"
    if proof["proof"] == "inclusion":
        named = zip(("item", "chunk", "batch"), verify_inclusion(proof, checkpoint), strict=True)
        lines = [f"{name}: {json.dumps(record, sort_keys=True)}" for name, record in named]
        return [f"Right: the grant {proof['grant']} is in the log {head}.", *lines]
    if proof["proof"] == "consistency":
        old = verify_checkpoint(proof["since"], keys, proof["tenant"])
        verify_consistency(old, checkpoint, [check_hash(decode(each)) for each in proof["path"]])
        return [f"Right: the log {head} continues the one with {old.size:,} leaves."]
    raise WrongProof("the kind of proof is unknown")


def main() -> int:
    """Verify the file that the command line names."""
    parser = argparse.ArgumentParser(description="Verify a proof of the audit log of valetkey.")
    parser.add_argument(
        "--key", required=True, action="append", help="a public key of the log: NAME+ID+KEY"
    )
    parser.add_argument("proof", help="the file of the proof, or - for stdin")
    options = parser.parse_args()
    try:
        keys = [parse_key(key) for key in options.key]
    except WrongProof as error:
        print(f"Error: --key: {error}.", file=sys.stderr)
        return 2
    try:
        text = sys.stdin.read() if options.proof == "-" else Path(options.proof).read_text("utf-8")
        lines = verify(json.loads(text), keys)
    except WrongProof as error:
        print(f"WRONG: {error}.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Error: {options.proof} cannot be read: {error.strerror}.", file=sys.stderr)
        return 2
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f"Error: this is not a proof: {type(error).__name__}.", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
