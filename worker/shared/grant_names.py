"""Names of grants, as people write them."""

from typing import NamedTuple, Self

from valetkey.wire.grant_ids import grant_id

_MAX_ITEM_DIGITS = 9  # more than the item numbers of any batch have


class GrantName(NamedTuple):
    """A grant by its batch and its item number, and the tenant if that is named, too.

    Tenants choose the ids of their batches, so a batch id is unique only together with a tenant's
    id.
    """

    batch_id: str
    item_number: int
    tenant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `[TENANT/]BATCH.NUMBER`. Raises ValueError."""
        tenant, _, grant = text.strip().rpartition("/")
        batch_id, _, number = grant.partition(".")
        if not (number.isascii() and number.isdecimal() and len(number) <= _MAX_ITEM_DIGITS):
            raise ValueError("a grant's id is [TENANT/]BATCH.NUMBER")
        return cls(batch_id.lower(), int(number), tenant or None)

    def __str__(self) -> str:
        id_ = grant_id(self.batch_id, self.item_number)
        return id_ if self.tenant is None else f"{self.tenant}/{id_}"
