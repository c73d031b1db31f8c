"""Rows that somebody else wrote are neither signed nor published."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert

from models import Checkpoint, Leaf, TreeHead
from tests.integration.usecases.checkpoints.conftest import Grow
from tests.support.builders.services import InProcessService
from tests.support.crypto.checkpoints import KEYS, settings
from worker.core.tree.signed_note import SignerKey
from worker.db.engine import write_transaction
from worker.private_files import write_private_file
from worker.usecases.checkpoints.publish import publish_checkpoints
from worker.usecases.checkpoints.sign import sign_checkpoints

FORGED_ROOT = "A" * 43 + "="
FORGER = SignerKey(KEYS.signer.name, bytes(32))


@pytest.mark.parametrize("tenant", [f"acme\n6\n{FORGED_ROOT}", "../acme", "/acme", "a+b", ""])
def test_a_tree_of_an_impossible_tenant_is_not_signed(
    service: InProcessService, grow: Grow, tenant: str
) -> None:
    grow()
    place = {"tenant": tenant, "leaf_number": 0, "kind": "cancellation", "reference": "x"}
    with write_transaction(service.context.engine) as connection:
        connection.execute(insert(Leaf).values(place | {"hash": bytes(32)}))
        connection.execute(insert(TreeHead).values(tenant=tenant, size=1, edge=bytes(32)))
    results = {result.tenant_id: result for result in sign_checkpoints(service.context, KEYS)}
    assert results[tenant].checkpoint is None
    assert results[tenant].problem == "no tenant can have this id"
    assert results["acme"].problem is None


@pytest.mark.parametrize("tenant", ["../other", "globex"])
@pytest.mark.parametrize("note", [FORGER.sign, str])
def test_a_checkpoint_that_this_service_did_not_sign_is_not_published(
    service: InProcessService, grow: Grow, tmp_path: Path, tenant: str, note: Callable[[str], str]
) -> None:
    grow()
    key_file = tmp_path / "audit.key"
    write_private_file(key_file, KEYS.signer.dump().encode(), replace=False)
    text = f"{KEYS.signer.name}/{tenant}\n1\n{FORGED_ROOT}\n"
    values = {"tenant": tenant, "size": 1, "root": bytes(32), "note": note(text)}
    with write_transaction(service.context.engine) as connection:
        moment = service.context.now()
        connection.execute(insert(Checkpoint).values(signed_at=moment, **values))
    folder = tmp_path / "a" / "checkpoints"
    options = settings(folder, audit_key_file=key_file, audit_origin=KEYS.signer.name)
    rows = {row.tenant_id: row for row in publish_checkpoints(service.context, options)}
    assert rows["acme"].problem is None
    assert (rows[tenant].size, rows[tenant].problem is None) == (0, False)
    assert [path.parent.name for path in tmp_path.rglob("*.checkpoint")] == ["acme"]
