"""Verifies a SQLite file with an audit log, and proofs of it, as docs/reference/record.md says.

It was written from that page alone, by somebody who had not seen the service. So it imports nothing
of the service or the tests, and takes no table of the page by program.
"""

import base64
import json
import re
import sqlite3
from bisect import bisect_left
from collections import defaultdict
from contextlib import closing
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Row = dict[str, Any]
# The primary key of each table that records or trees are made of.
KEYS = {
    "batches": "batch_number",
    "chunks": "batch_number chunk_number",
    "grants": "batch_number item_number",
    "annotations": "batch_number item_number",
    "item_edges": "batch_number chunk_number",
    "reissues": "batch_number chunk_number fingerprint",
    "settlements": "batch_number chunk_number",
    "cancellations": "tenant batch_id",
    "uses": "fingerprint",
    "revocations": "tenant revocation_id",
    "erasures": "tenant erasure_id",
    "prunes": "prune_number",
    "config_changes": "change_number",
    "leaves": "tenant leaf_number",
    "tree_heads": "tenant",
    "checkpoints": "tenant size",
}
TABLES = {
    "reissue": "reissues",
    "settlement": "settlements",
    "cancellation": "cancellations",
    "use": "uses",
    "revocation": "revocations",
    "erasure": "erasures",
    "prune": "prunes",
    "config": "config_changes",
}
TYPES = {table: kind for kind, table in TABLES.items()} | {"chunks": "chunk", "batches": "batch"}
NAMED = {"batch": "bc", "chunk": "bc", "settlement": "bc", "reissue": "bcr"}  # others: reference
NUMBERS = frozenset(
    re.findall(
        r"\w+",
        """
    batch_number chunk_number item_number leaf_number prune_number change_number size config_change
    expires_in issued refused chunk_size total returned_bytes used_bytes charged_bytes
    grants texts chunks edges items use_groups
    """,
    )
)
BYTES = {"digest", "digests", "fingerprint", "hash", "edge", "root"}
JSON = {
    ("grants", "detail"),
    ("batches", "terms"),
    ("batches", "notify"),
    ("batches", "refusal"),
    ("chunks", "refusal"),
    ("config_changes", "before"),
    ("config_changes", "after"),
}
RENAMED = {("grants", "item_number"): "item", ("grants", "object_key"): "key"}
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def canonical(value: Any) -> str:
    """Return a JSON value as RFC 8785 spells it, with exact integers."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        texts = [f"{canonical(name)}:{canonical(value[name])}" for name in names]
        return "{" + ",".join(texts) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def parse(text: str) -> Any:
    """Read JSON that has only integers and no name twice in an object."""

    def unique(pairs: list[tuple[str, Any]]) -> Row:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice in an object")
        return dict(pairs)

    def refuse(number: str) -> Any:
        raise ValueError(f"{number} is no integer")

    return json.loads(text, object_pairs_hook=unique, parse_float=refuse, parse_constant=refuse)


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """The size and the right edge of a Merkle tree."""

    def __init__(self, size: int = 0, edge: bytes = b"") -> None:
        """Begin with a tree of this size and edge."""
        if len(edge) != 32 * size.bit_count():
            raise ValueError(f"its edge does not fit {size} hashes")
        self.size, self.edges = size, [edge[at : at + 32] for at in range(0, len(edge), 32)]

    def append(self, new: bytes) -> None:
        """Add one hash, and combine the complete subtrees that it completes."""
        self.edges.append(new)
        self.size += 1
        for _ in range((self.size & -self.size).bit_length() - 1):
            right = self.edges.pop()
            self.edges.append(node_hash(self.edges.pop(), right))

    def edge(self) -> bytes:
        """Return the right edge."""
        return b"".join(self.edges)

    def root(self) -> bytes:
        """Return the root."""
        result = self.edges[-1] if self.edges else sha256().digest()
        for left in self.edges[-2::-1]:
            result = node_hash(left, result)
        return result


def decode(text: Any) -> bytes:
    """Return the bytes of base64 in its only spelling."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 is not spelled as usual")
    return data


def read_key(line: str) -> tuple[str, bytes, Ed25519PublicKey]:
    """Return the name, the id and the key of a public key's line."""
    name, number, encoded = line.strip().split("+", 2)
    data = decode(encoded)
    known = sha256(name.encode() + b"\n" + data).digest()[:4]
    if len(data) != 33 or data[0] != 1 or known.hex() != number:
        raise ValueError(f"{line} is not the line of an Ed25519 key with its id")
    return name, known, Ed25519PublicKey.from_public_bytes(data[1:])


def read_note(note: str, keys: list[str]) -> tuple[str, int, bytes]:
    """Verify a signed checkpoint by the keys that are known, and return what it says."""
    text, _, signatures = note.partition("\n\n")
    match = re.fullmatch(r"([^\n]+)/([^/\n]+)\n(0|[1-9][0-9]*)\n([^\n]+)", text)
    if not match or not re.fullmatch("(— [^ \n]+ [^ \n]+\n)+", signatures):
        raise ValueError("the checkpoint has not the format of a checkpoint")
    name, tenant, size, root = match.groups()
    right = False
    for line in signatures.removesuffix("\n").split("\n"):
        _, signer, encoded = line.split(" ")
        data = decode(encoded)
        for key_name, number, key in map(read_key, keys):
            if signer == key_name == name and data[:4] == number:
                try:
                    key.verify(data[4:], f"{text}\n".encode())
                except InvalidSignature:
                    raise ValueError("the signature of the checkpoint is wrong") from None
                right = True
    if not right or len(decode(root)) != 32:
        raise ValueError("no known key signed the checkpoint, or its root is no hash")
    return tenant, int(size), decode(root)


def stored_json(column: str, value: Any) -> Any:
    """Return a JSON value that is spelled as the service stores it: in SQLite a bare number."""
    if type(value) is int:
        return value
    result = parse(value)
    if result is None or type(result) is int or json.dumps(result) != value:
        raise ValueError(f"{column} is null, or spelled in another way")
    return result


def value_of(table: str, column: str, row: Row) -> Any:
    """Return the value that a record has of a column, or None if it has none."""
    value, salt = row[column], row.get(f"{column}_salt")
    if salt is not None:
        if not isinstance(salt, bytes) or len(salt) != (32 if value is None else 16):
            raise ValueError(f"{column}_salt has a wrong length")
        return salt.hex() if value is None else sha256(salt + value.encode()).hexdigest()
    if value is None:
        return None
    if f"{column}_salt" in row:
        raise ValueError(f"{column} has no salt")
    if (table, column) in JSON:
        return stored_json(column, value)
    expected = int if column in NUMBERS else bytes if column in BYTES else str
    is_time = column.endswith("_at") and table != "tree_heads"
    if not isinstance(value, expected) or (is_time and not TIME.fullmatch(str(value))):
        raise ValueError(f"{column} has another type or spelling")
    if is_time:
        return str(value).replace(" ", "T") + "Z"
    return value.hex() if isinstance(value, bytes) else value


def members(table: str, row: Row) -> Row:
    """Return the members of a record that are columns of the row."""
    columns = [column for column in row if not column.endswith("_salt")]
    values = {RENAMED.get((table, name), name): value_of(table, name, row) for name in columns}
    joins = {"batch_number", "prune_number", "group_id"}
    joins |= {"item_number"} if table == "annotations" else set()
    return {name: values[name] for name in values.keys() - joins if values[name] is not None}


class Missing(NamedTuple):
    """Rows that a leaf names and that are missing, which a later prune may explain.

    counts are what a prune has to count, month when they were issued, needs what it has to explain.
    """

    leaf: int
    what: tuple[Any, ...]
    counts: dict[str, int]
    month: str
    needs: tuple[Any, ...] | None


class Log:
    """The tables of a database, and what differs in them."""

    def __init__(self, connection: sqlite3.Connection, key: str) -> None:
        """Read all tables."""
        self.key, self.problems = key, list[str]()
        self.tables = {table: self._read(connection, table) for table in KEYS}
        self.covered: dict[tuple[Any, ...], int] = defaultdict(int)
        self.uses: dict[tuple[Any, Any], list[bytes]] = defaultdict(list)
        for (fingerprint,), row in sorted(self.tables["uses"].items()):
            self.uses[row["tenant"], row["group_id"]].append(fingerprint)
        self.items: dict[int, list[int]] = defaultdict(list)
        for batch, item in sorted(self.tables["grants"]):
            self.items[batch].append(item)
        self.missing: dict[str, list[Missing]] = defaultdict(list)
        self.prunes: dict[str, list[Row]] = defaultdict(list)

    def _read(self, connection: sqlite3.Connection, table: str) -> dict[tuple[Any, ...], Row]:
        """Return the rows of a table by their primary keys."""
        rows: dict[tuple[Any, ...], Row] = {}
        for row in map(dict, connection.execute(f"SELECT * FROM {table}")):  # noqa: S608
            key = tuple(row[name] for name in KEYS[table].split())
            try:
                if not members(table, row) or key in rows or len(row.get("hash", bytes(32))) != 32:
                    raise ValueError("it is empty, or there twice, or has no hash")
                rows[key] = row
            except WRONG as problem:
                self.problems.append(f"{table} {key}: the row is unreadable: {problem}")
        return rows

    def record(self, table: str, key: tuple[Any, ...], tenant: str) -> bytes:
        """Return the hash of the record of a row, and note that a leaf of the tenant covers it."""
        row = self.tables[table][key]
        self.covered[(table, *key)] += 1
        result = members(table, row)
        if table == "grants":
            if key in self.tables["annotations"]:
                self.covered[("annotations", *key)] += 1
                result |= members("annotations", self.tables["annotations"][key])
            return leaf_hash(canonical(result).encode())
        if "batch_number" in row:
            batch = self.tables["batches"][(row["batch_number"],)]
            if row.get("tenant", batch["tenant"]) != batch["tenant"]:
                raise ValueError("its tenant is not that of its batch")
            result |= {"batch_id": batch["batch_id"], "tenant": batch["tenant"]}
        if result.get("tenant", tenant) != tenant:
            raise ValueError("its tenant is not that of its leaf")
        return leaf_hash(canonical(result | {"type": TYPES[table]}).encode())

    def chunk_root(self, leaf: Row) -> bytes:
        """Return the inner root of a leaf of a chunk, by its items or by their edge."""
        number, position = key = (leaf["batch_number"], leaf["chunk_number"])
        batch, chunk = self.tables["batches"][(number,)], self.tables["chunks"][key]
        tree, count = Tree(), chunk["issued"] + chunk["refused"]
        first, every = position * batch["chunk_size"], self.items[number]
        ends = (bisect_left(every, first), bisect_left(every, first + batch["chunk_size"]))
        for item in every[slice(*ends)]:
            tree.append(self.record("grants", (number, item), leaf["tenant"]))
        edge = self.tables["item_edges"].get(key)
        if edge:
            self.covered[("item_edges", *key)] += 1
            if not tree.size and count:
                tree = Tree(count, edge["edge"])
                counts = {"chunks": 1, "items": count, "edges": 1}
                number_of_leaf, what = leaf["leaf_number"], ("chunk", *key)
                missing = Missing(number_of_leaf, what, counts, chunk["issued_at"], None)
                self.missing[leaf["tenant"]].append(missing)
                self.cover_texts(number, range(first, first + batch["chunk_size"]))
            elif tree.edge() != edge["edge"]:
                raise ValueError("its items do not have the edge in item_edges")
        if tree.size != count:
            raise ValueError(f"it has {tree.size} items and counts {count}")
        tree.append(self.record("chunks", key, leaf["tenant"]))
        if leaf["kind"] == "batch":
            tree.append(self.record("batches", (number,), leaf["tenant"]))
        return tree.root()

    def cover_texts(self, batch_number: int, items: range) -> None:
        """Accept the texts of pruned items: they are removed in later transactions."""
        for key in self.tables["annotations"]:
            if key[0] == batch_number and key[1] in items:
                self.covered[("annotations", *key)] += 1

    def rows_of(self, leaf: Row) -> list[tuple[Any, ...]]:
        """Return the keys of the rows that a leaf other than of a chunk names."""
        kind, reference, tenant = leaf["kind"], leaf["reference"], leaf["tenant"]
        key = (leaf["batch_number"], leaf["chunk_number"])
        if kind == "settlement":
            return [key]
        if kind == "reissue":
            return [(*key, fingerprint) for fingerprint in [bytes.fromhex(reference)]]
        if kind == "use":
            return [(fingerprint,) for fingerprint in self.uses.get((tenant, reference), [])]
        if kind in ("config", "prune"):
            numbers = [*map(int, reference.split("-"))]
            if reference != "-".join(map(str, numbers)) or len(numbers) != 1 + (kind == "config"):
                raise ValueError("its reference is not spelled as usual")
            rows = sorted(self.tables[TABLES[kind]])
            return [row for row in rows if numbers[0] <= row[0] <= numbers[-1]]
        return [(tenant, reference)]

    def root_of(self, leaf: Row) -> bytes | None:
        """Return the inner root of a leaf, or None if its rows are missing and may be pruned."""
        kind, tenant, tree = leaf["kind"], leaf["tenant"], Tree()
        names = ("batch_number", "chunk_number", "reference")
        given = "".join(name[0] for name in names if leaf[name] is not None)
        is_tree_wrong = kind != "fork" and (kind == "config") is not (tenant == "~config")
        if given != NAMED.get(kind, "r") or is_tree_wrong:
            raise ValueError("its columns do not fit its kind")
        if kind in ("batch", "chunk"):
            return self.chunk_root(leaf)
        if kind == "fork":
            record = parse(leaf["reference"])
            is_fork = record["type"] == kind and record["tenant"] == tenant
            if canonical(record) != leaf["reference"] or not is_fork:
                raise ValueError("its reference is not the record of a fork")
            return leaf_hash(leaf["reference"].encode())
        keys = [key for key in self.rows_of(leaf) if key in self.tables[TABLES[kind]]]
        if not keys and kind in ("use", "settlement"):
            key = (leaf["batch_number"], leaf["chunk_number"])
            chunk = self.tables["chunks"].get(key, {"issued_at": ""})
            counts = {"use_groups": 1} if kind == "use" else {}
            needs = ("chunk", *key) if kind == "settlement" else None
            what, month = (kind, *key), chunk["issued_at"]
            self.missing[tenant].append(Missing(leaf["leaf_number"], what, counts, month, needs))
            return None
        if not keys:
            raise ValueError("its rows are missing")
        for key in keys:
            tree.append(self.record(TABLES[kind], key, tenant))
        if kind == "prune":
            prune = self.tables["prunes"][keys[0]]
            self.prunes[tenant].append({"leaf": leaf["leaf_number"], **prune})
        return tree.root()

    def check_tree(self, tenant: str, leaves: list[Row]) -> None:
        """Compare the leaves of a tenant with their rows, and their tree with its head."""
        tree, trees = Tree(), {0: Tree()}
        for number, leaf in enumerate(leaves):
            try:
                if leaf["leaf_number"] != number:
                    raise ValueError(f"leaf {number} is missing")
                root = self.root_of(leaf)
                if root is not None and leaf_hash(root) != leaf["hash"]:
                    raise ValueError("its rows have another hash")
            except WRONG as problem:
                where = f"{tenant}, leaf {leaf['leaf_number']} ({leaf['kind']})"
                self.problems.append(f"{where}: {problem!r}")
            tree.append(leaf["hash"])
            if (tenant, tree.size) in self.tables["checkpoints"]:
                trees[tree.size] = Tree(tree.size, tree.edge())
        head = self.tables["tree_heads"].get((tenant,), {"size": 0, "edge": b""})
        if (head["size"], head["edge"]) != (tree.size, tree.edge()):
            self.problems.append(f"{tenant}: the head of the tree is not that of its leaves")
        self.check_checkpoints(tenant, trees)
        self.check_removed(tenant)

    def check_checkpoints(self, tenant: str, trees: dict[int, Tree]) -> None:
        """Compare the checkpoints of a tenant with its tree at their sizes."""
        before = ""
        for (owner, size), row in sorted(self.tables["checkpoints"].items()):
            if owner != tenant:
                continue
            try:
                said, root = read_note(row["note"], [self.key]), trees[size].root()
                if said != (tenant, size, root) or row["root"] != root:
                    raise ValueError("it is not that of the leaves")
                if row["edge"] not in (None, trees[size].edge()) or row["signed_at"] < before:
                    raise ValueError("its edge is another, or it is older than a smaller one")
                before = row["signed_at"]
            except WRONG as problem:
                self.problems.append(f"{tenant}, checkpoint of {size} leaves: {problem!r}")

    def check_removed(self, tenant: str) -> None:
        """Report rows that are missing and that no prune of the tenant explains."""
        explained = set()
        order = sorted(self.missing[tenant], key=lambda each: (bool(each.needs), -each.leaf))
        for each in order:
            for prune in self.prunes[tenant]:
                left = {name: prune[name] - count for name, count in each.counts.items()}
                is_later = prune["leaf"] > each.leaf and each.month < prune["before"]
                has_needed = each.needs is None or each.needs in explained
                if is_later and has_needed and min(left.values(), default=0) >= 0:
                    prune.update(left)
                    explained.add(each.what)
                    break
            else:
                where = f"{tenant}, leaf {each.leaf} ({each.what[0]})"
                self.problems.append(f"{where}: rows are missing, and no prune explains it")

    def check_signers(self) -> None:
        """Report chunks whose key, or lack of one, is not that of the config that decided them."""
        changes = [row for _, row in sorted(self.tables["config_changes"].items(), reverse=True)]
        config: Row = {}
        chunks = self.tables["chunks"].items()
        for key, chunk in sorted(chunks, key=lambda each: each[1]["config_change"]):
            while changes and changes[-1]["change_number"] <= chunk["config_change"]:
                change = members("config_changes", changes.pop())
                config[change["path"]] = change.get("after")
            tenant = f"tenants.{self.tables['batches'][key[:1]]['tenant'].split('~')[0]}"
            name, issued_at = chunk["signing_key"], datetime.fromisoformat(chunk["issued_at"])
            latest = issued_at - timedelta(hours=1)
            if changes and datetime.fromisoformat(changes[-1]["changed_at"]) < latest:
                self.problems.append(f"chunk {key}: the config had been replaced")
            path = f"{tenant}.keys.{name}"
            jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{config.get(f"{path}.sign")}"}}'.encode()
            thumbprint = base64.urlsafe_b64encode(sha256(jwk).digest()).decode().rstrip("=")
            expires = config.get(f"{path}.expires") or "9999-01-01"
            is_valid = thumbprint == chunk["key_thumbprint"] and not config.get(f"{path}.revoked")
            is_valid &= latest < datetime.fromisoformat(expires).replace(tzinfo=None)
            if not (is_valid if name else config.get(f"{tenant}.trust") == "queue"):
                self.problems.append(f"chunk {key}: the config did not accept its signature")

    def check(self) -> list[str]:
        """Return sentences about all that differs."""
        leaves: dict[str, list[Row]] = defaultdict(list)
        for (tenant, _), leaf in sorted(self.tables["leaves"].items()):
            leaves[tenant].append(leaf)
        others = [*self.tables["tree_heads"], *self.tables["checkpoints"]]
        for tenant in {*leaves, *(key[0] for key in others)}:
            self.check_tree(tenant, leaves[tenant])
        for table in (*TYPES, "grants", "annotations", "item_edges"):
            for key in self.tables[table]:
                count = self.covered[(table, *key)]
                if count != 1:
                    self.problems.append(f"{table} {key}: {count} leaves cover it")
        try:
            self.check_signers()
        except WRONG as problem:
            self.problems.append(f"The signers cannot be read: {problem!r}")
        return self.problems


def verify_database(path: str, key: str) -> list[str]:
    """Return sentences about what differs in a SQLite database, none if it is sound."""
    uri = f"file:{quote(path)}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        try:
            return Log(connection, key).check()
        except (sqlite3.Error, *WRONG) as problem:
            return [f"The database cannot be read: {problem!r}"]


def climb(leaf: bytes, position: int, size: int, path: list[bytes]) -> bytes:
    """Return the root to which an inclusion path leads."""
    if type(position) is not int or not 0 <= position < size or (size == 1) is not (not path):
        raise ValueError("the path does not fit the position and the size")
    if size == 1:
        return leaf
    *rest, sibling = path
    left = 1 << ((size - 1).bit_length() - 1)
    if position < left:
        return node_hash(climb(leaf, position, left, rest), sibling)
    return node_hash(sibling, climb(leaf, position - left, size - left, rest))


def grow(old: int, new: int, path: list[bytes], root: bytes | None) -> tuple[bytes, bytes]:
    """Return both roots to which a consistency path leads; the older one is given on the left."""
    if len(path) < (old != new) or (old == new and len(path) != (root is None)):
        raise ValueError("the path has a wrong length")
    if old == new:
        same = path[0] if root is None else root
        return same, same
    *rest, sibling = path
    left = 1 << ((new - 1).bit_length() - 1)
    if old <= left:
        older, newer = grow(old, left, rest, root)
        return older, node_hash(newer, sibling)
    older, newer = grow(old - left, new - left, rest, None)
    return node_hash(sibling, older), node_hash(sibling, newer)


def proven_leaf(leaf: Row, note: tuple[str, int, bytes]) -> dict[str, Row]:
    """Return the records of a leaf by their types."""
    found: dict[str, tuple[int, Row]] = {}
    roots = set()
    for entry in leaf["proven"]:
        record = parse(entry["record"])
        for name, text in entry.get("texts", {}).items():
            salt = bytes.fromhex(text["salt"])
            hashed = sha256(salt + text["text"].encode()).hexdigest()
            if len(salt) != 16 or salt.hex() != text["salt"] or hashed != record[name]:
                raise ValueError(f"the text of {name} is another one")
        path, kind = [*map(decode, entry["path"])], record.get("type", "item")
        start = leaf_hash(entry["record"].encode())
        roots.add(climb(start, entry["position"], leaf["records"], path))
        if canonical(record) != entry["record"] or kind in found:
            raise ValueError("a record is not canonical, or there twice")
        found[kind] = entry["position"], record
    (inner,), path, (_, size, root) = roots, [*map(decode, leaf["path"])], note
    if climb(leaf_hash(inner), leaf["leaf"], size, path) != root:
        raise ValueError("a leaf does not lead to the root of the checkpoint")
    position, chunk = found["chunk"]
    count = chunk["issued"] + chunk["refused"]
    records = {count + 2} if "batch" in found else {count + 1, count + 2}
    if (
        position != count
        or found.get("batch", [count + 1])[0] != count + 1
        or leaf["records"] not in records
    ):
        raise ValueError("a record has a wrong position")
    return {kind: {**record, "position": at} for kind, (at, record) in found.items()}


def check_inclusion(proof: Row, note: tuple[str, int, bytes]) -> list[Row]:
    """Return the records that the proof of a grant proves."""
    leaves = [proven_leaf(leaf, note) for leaf in proof["leaves"]]
    first = leaves[0] if leaves else {}
    names = [*map(set, leaves)]
    if names not in ([{"item", "chunk", "batch"}], [{"item", "chunk"}, {"chunk", "batch"}]):
        raise ValueError("the proof has not the records of a grant")
    item, chunk, batch = first["item"], first["chunk"], leaves[-1]["batch"]
    number, position = divmod(item["item"], batch["chunk_size"])
    batch_id, _, wanted = proof["grant"].rpartition(".")
    found = (str(item["item"]), item["position"], chunk["chunk_number"])
    if found != (wanted, position, number):
        raise ValueError("the item is another one, or of another chunk")
    records = [record for leaf in leaves for record in leaf.values()]
    for record in records:
        owner = (record.get("tenant"), record.get("batch_id"))
        if "type" in record and owner != (proof["tenant"], batch_id):
            raise ValueError("a record is of another batch")
        del record["position"]
    return records


def verify_proof(proof: dict[str, Any], keys: list[str]) -> list[dict[str, Any]]:
    """Return the records that a proof proves, and raise ValueError if it is wrong."""
    try:
        note = read_note(proof["checkpoint"], keys)
        if repr(proof["version"]) != "1" or note[0] != proof["tenant"]:
            raise ValueError("the proof is of another version or tenant")
        if proof["proof"] == "inclusion":
            return check_inclusion(proof, note)
        (_, size, root), path = read_note(proof["since"], keys), [*map(decode, proof["path"])]
        origins = {proof[name].split("\n")[0] for name in ("since", "checkpoint")}
        if proof["proof"] != "consistency" or len(origins) != 1 or size > note[1]:
            raise ValueError("the proof is of another kind, or of other trees")
        roots = grow(size, note[1], path, root) if size or path else (Tree().root(), note[2])
        if roots != (root, note[2]):
            raise ValueError("the newer tree does not continue the older one")
    except WRONG as problem:
        raise ValueError(f"the proof is wrong: {problem!r}") from None
    return []
