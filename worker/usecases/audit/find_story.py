"""Finds the grant or batch that an id names, and reads its story."""

from datetime import datetime

from sqlalchemy import Connection

from worker.core.links.grant_name import GrantName
from worker.db.audit.selection.batch_ids import find_batches
from worker.db.audit.selection.tenant_filter import find_tenant_ids
from worker.db.audit.stories.grant_story import Story, read_story
from worker.db.retention.pruned_items import pruned_item_month


class UnknownGrant(LookupError):
    """The audit log has no such grant or batch, or several tenants have a batch with this id."""


def find_story(connection: Connection, grant: str, now: datetime) -> Story:
    """Read the story of a grant, [TENANT/]BATCH.NUMBER, or a batch. Raises UnknownGrant.

    now decides which grants are open.
    """
    tenant, batch_id, item_number = _parse(grant)
    batches = find_batches(connection, batch_id)
    if not batches:
        raise UnknownGrant(
            "the audit log has no batch with this id: find a grant with `audit list --key KEY` or"
            " `audit list --requester NAME --since 1d`"
        )
    ids = None if tenant is None else find_tenant_ids(connection, tenant)
    selected = [(id_, number) for id_, number in batches if ids is None or id_ in ids]
    item = "" if item_number is None else f".{item_number}"
    names = [f"{id_}/{batch_id}{item}" for id_, _ in selected or batches]
    if not selected:
        raise UnknownGrant(
            f"{tenant} has no batch with this id: did you mean {' or '.join(names)}?"
        )
    if len(selected) > 1:
        raise UnknownGrant(f"several tenants have a batch with this id: {' or '.join(names)}?")
    story = read_story(connection, selected[0][1], item_number, now)
    if story is None:
        raise _undecided(connection, names[0], selected[0][1], item_number or 0)
    return story


def _parse(text: str) -> tuple[str | None, str, int | None]:
    tenant, _, id_ = text.strip().rpartition("/")
    if "." not in id_:
        return tenant or None, id_.lower(), None
    try:
        name = GrantName.parse(text)
    except ValueError as error:
        raise UnknownGrant(f"{error}, a batch's id has no number") from None
    return name.tenant, name.batch_id, name.item_number


def _undecided(
    connection: Connection, name: str, batch_number: int, item_number: int
) -> UnknownGrant:
    rest = f"`audit show {name.rpartition('.')[0]}` shows"
    month = pruned_item_month(connection, batch_number, item_number)
    if month is not None:
        return UnknownGrant(
            f"item {item_number} of this batch was removed by `audit prune --before {month}`:"
            f" {rest} what is kept"
        )
    return UnknownGrant(
        f"item {item_number} of this batch was not decided: {rest} how many items there are"
    )
