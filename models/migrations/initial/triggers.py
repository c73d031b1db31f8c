"""Create the triggers that protect the audit log, and those that list its chunks.

The audit log only grows, and texts of producers can only be erased: set to NULL, with the
commitment in place of the salt. Its owner can still disable a trigger: `audit prune` does.
"""

from collections.abc import Iterator

from alembic import op

APPEND_ONLY = (
    *("batches", "chunks", "grants", "annotations", "reissues", "cancellations", "config_changes"),
    *("tenant_identities", "leaves", "checkpoints", "prunes", "item_edges", "refused_chunks"),
    *("uses", "settlements", "revocations", "erasures"),
)
PARTITIONS = ("grants_first", "grants_default")  # a trigger of statements is not inherited

# On SQLite, INSERT OR REPLACE deletes rows without firing DELETE triggers. These conditions find
# the rows that a new one would replace. `grants` and `annotations` are not among them: a search for
# each item made issuing slower by up to a tenth. There, PRAGMA recursive_triggers fires the DELETE
# trigger.
_IS_CHUNK = "batch_number = NEW.batch_number AND chunk_number = NEW.chunk_number"
REPLACED = {
    "batches": "batch_number = NEW.batch_number"
    " OR (tenant = NEW.tenant AND batch_id = NEW.batch_id)",
    "chunks": _IS_CHUNK,
    "config_changes": "change_number = NEW.change_number",
    "leaves": "tenant = NEW.tenant AND leaf_number = NEW.leaf_number",
    "prunes": "prune_number = NEW.prune_number",
    "erasures": "tenant = NEW.tenant AND erasure_id = NEW.erasure_id",
    "item_edges": _IS_CHUNK,
    "settlements": _IS_CHUNK,
}
# The service inserts these with ON CONFLICT DO NOTHING, which the trigger must not turn into a
# failure. It ignores the new row.
IGNORED = {
    "reissues": f"{_IS_CHUNK} AND fingerprint = NEW.fingerprint",
    "cancellations": "tenant = NEW.tenant AND batch_id = NEW.batch_id",
    "checkpoints": "tenant = NEW.tenant AND size = NEW.size",
    "tenant_identities": "id = NEW.id",
    "tree_heads": "tenant = NEW.tenant",
    "uses": "fingerprint = NEW.fingerprint",
}

_INSERT_UNINDEXED = "INSERT INTO unindexed_chunks VALUES (NEW.batch_number, NEW.chunk_number);"
_INSERT_REFUSED = (
    "INSERT INTO refused_chunks SELECT tenant, NEW.batch_number, NEW.chunk_number"
    " FROM batches WHERE batch_number = NEW.batch_number;"
)


def _refused_changes(*salts: str) -> str:
    """Return the condition of updates that do anything but erase the texts of these salts."""
    refused = []
    for salt in salts:
        name = salt.removesuffix("_salt")
        same_salt = f"NEW.{salt} IS NOT DISTINCT FROM OLD.{salt}"
        if name == "request":  # the salt of a fingerprint, which has no text
            refused.append(f"NOT ({same_salt} OR NEW.{salt} IS NULL)")
            continue
        is_same = f"NEW.{name} IS NOT DISTINCT FROM OLD.{name} AND {same_salt}"
        has_hash = f"coalesce(length(NEW.{salt}), 0) = 32"
        is_erased = f"OLD.{name} IS NOT NULL AND NEW.{name} IS NULL AND {has_hash}"
        refused.append(f"NOT ({is_same} OR {is_erased})")
    return " OR ".join(refused)


_ERASABLE = {
    "batches": (
        (
            "batch_id, batch_number, bucket, callback, chunk_size, decided_at, fingerprint, kind,"
            " notify, refusal, reissue_of, tenant, terms, total"
        ),
        _refused_changes("reason_salt", "recipient_salt", "request_salt", "requested_by_salt"),
    ),
    "annotations": (
        "batch_number, item_number",
        _refused_changes("reason_salt", "recipient_salt", "ref_salt"),
    ),
    "cancellations": (
        "batch_id, cancelled_at, signing_key, tenant",
        _refused_changes("reason_salt", "requested_by_salt"),
    ),
}
"""The tables with texts that can be erased: columns that never change, and refused updates."""


def is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def create_triggers() -> None:
    """Create all triggers, and their functions on PostgreSQL."""
    for statement in _postgres_triggers() if is_postgres() else _sqlite_triggers():
        op.execute(statement)


def _postgres_triggers() -> Iterator[str]:
    yield _function("append_only", "RAISE EXCEPTION 'the audit log is append only';")
    for table in (*APPEND_ONLY, *PARTITIONS):
        fixed, refused = _ERASABLE.get(table, ("", ""))
        update = f"UPDATE OF {fixed}" if fixed else "UPDATE"
        event = f"BEFORE {update} OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT"
        yield _trigger("append_only", event, "append_only")
        if refused:
            event = f"BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({refused})"
            yield _trigger("only_erases", event, "append_only")
    yield _function(
        "tree_grows",
        "IF TG_OP = 'UPDATE' AND NEW.tenant = OLD.tenant AND NEW.size > OLD.size THEN"
        " RETURN NEW; END IF; RAISE EXCEPTION 'a tree only grows';",
    )
    event = "BEFORE UPDATE OR DELETE ON tree_heads FOR EACH ROW"
    yield _trigger("only_grows", event, "tree_grows")
    event = "BEFORE TRUNCATE ON tree_heads FOR EACH STATEMENT"
    yield _trigger("no_truncate", event, "append_only")
    event = "AFTER INSERT ON chunks FOR EACH ROW"
    yield _function("unindexed_chunk", f"{_INSERT_UNINDEXED} RETURN NULL;")
    yield _trigger("unindexed", event, "unindexed_chunk")
    yield _function("refused_chunk", f"{_INSERT_REFUSED} RETURN NULL;")
    yield _trigger("refused", f"{event} WHEN (NEW.refused > 0)", "refused_chunk")


def _function(name: str, body: str) -> str:
    return (
        f"CREATE FUNCTION valetkey_{name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {body} END $$"
    )


def _trigger(name: str, event: str, function: str) -> str:
    return f"CREATE TRIGGER {name} {event} EXECUTE FUNCTION valetkey_{function}()"


def _sqlite_triggers() -> Iterator[str]:
    refuse = "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
    for table in APPEND_ONLY:
        fixed, refused = _ERASABLE.get(table, ("", ""))
        refused = refused.replace("IS NOT DISTINCT FROM", "IS")  # as SQLite before 3.39 calls it
        update = f"UPDATE OF {fixed}" if fixed else "UPDATE"
        for name, verb in (("update", update), ("delete", "DELETE")):
            yield f"CREATE TRIGGER {table}_no_{name} BEFORE {verb} ON {table} {refuse}"
        if refused:
            event = f"BEFORE UPDATE ON {table} WHEN {refused}"
            yield f"CREATE TRIGGER {table}_only_erases {event} {refuse}"
    ignore = "BEGIN SELECT RAISE(IGNORE); END"
    for tables, action in ((REPLACED, refuse), (IGNORED, ignore)):
        for table, condition in tables.items():
            exists = f"EXISTS (SELECT 1 FROM {table} WHERE {condition})"  # noqa: S608 - constants
            trigger = f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}"
            yield f"{trigger} WHEN {exists} {action}"
    shrink = "BEGIN SELECT RAISE(ABORT, 'a tree only grows'); END"
    is_smaller = "NEW.tenant <> OLD.tenant OR NEW.size <= OLD.size"
    yield f"CREATE TRIGGER tree_heads_grow BEFORE UPDATE ON tree_heads WHEN {is_smaller} {shrink}"
    yield f"CREATE TRIGGER tree_heads_no_delete BEFORE DELETE ON tree_heads {shrink}"
    yield f"CREATE TRIGGER chunks_unindexed AFTER INSERT ON chunks BEGIN {_INSERT_UNINDEXED} END"
    yield (
        "CREATE TRIGGER chunks_refused AFTER INSERT ON chunks WHEN NEW.refused > 0"
        f" BEGIN {_INSERT_REFUSED} END"
    )


def drop_functions() -> None:
    """Drop the functions on PostgreSQL, with their triggers. Tables drop the rest."""
    if is_postgres():
        for function in ("append_only", "tree_grows", "unindexed_chunk", "refused_chunk"):
            op.execute(f"DROP FUNCTION valetkey_{function}() CASCADE")
        op.execute("DROP FUNCTION valetkey_add_partition(integer)")
