from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine, select

from models import Leaf, TreeHead
from worker.base.database_engine import read_transaction, write_transaction
from worker.ledger.merkle import RightEdge, hash_leaf
from worker.ledger.tree_leaves import NewLeaf, append_leaf


def _append(engine: Engine, tenant_id: str, *data: bytes) -> None:
    with write_transaction(engine) as connection:
        append_leaf(connection, tenant_id, *(NewLeaf("config", hash_leaf(d)) for d in data))


def _hashes(engine: Engine, tenant_id: str) -> list[bytes]:
    """Read a tenant's leaves, which must be numbered from 0 without gaps."""
    query = select(Leaf.leaf_number, Leaf.hash).where(Leaf.tenant == tenant_id)
    with read_transaction(engine) as connection:
        rows = connection.execute(query.order_by(Leaf.leaf_number)).all()
    assert [row.leaf_number for row in rows] == list(range(len(rows)))
    return [row.hash for row in rows]


def _head(engine: Engine, tenant_id: str) -> RightEdge:
    with read_transaction(engine) as connection:
        row = connection.execute(select(TreeHead).where(TreeHead.tenant == tenant_id)).one()
    return RightEdge.from_bytes(row.size, row.edge)


def test_the_head_is_the_tree_of_all_leaves(engine: Engine) -> None:
    _append(engine, "acme", b"1")
    _append(engine, "acme", b"2", b"3")
    assert _head(engine, "acme") == RightEdge.of(_hashes(engine, "acme"))


def test_each_tenant_has_a_tree_of_its_own(engine: Engine) -> None:
    _append(engine, "acme", b"1")
    _append(engine, "globex", b"2")
    assert _hashes(engine, "acme") == [hash_leaf(b"1")]


def test_a_transaction_that_fails_appends_nothing(engine: Engine) -> None:
    _append(engine, "acme", b"1")
    with engine.connect() as connection, connection.begin() as transaction:
        append_leaf(connection, "acme", NewLeaf("config", hash_leaf(b"2")))
        transaction.rollback()
    assert _head(engine, "acme").size == len(_hashes(engine, "acme")) == 1


def test_concurrent_transactions_append_one_after_the_other(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(40):
            pool.submit(_append, engine, "acme", b"%d" % number)
    hashes = _hashes(engine, "acme")
    assert sorted(hashes) == sorted(hash_leaf(b"%d" % number) for number in range(40))
    assert _head(engine, "acme") == RightEdge.of(hashes)
