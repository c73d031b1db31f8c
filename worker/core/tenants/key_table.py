"""[tenants.NAME.keys] of tenants.toml: who may speak for the tenant."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from valetkey.crypto.keys import load_public_key
from worker.core.tenants import fields
from worker.core.tenants.config import TenantKey
from worker.core.tenants.fields import field_error


def _moment(value: Any) -> Any:
    """Read what TOML has for moments, or text; what names no time zone is in UTC."""
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(read, date) and not isinstance(read, datetime):
            read = datetime(read.year, read.month, read.day, tzinfo=UTC)
        if isinstance(read, datetime):
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise field_error("a moment is 2027-11-25, its first in UTC, or 2027-11-25T08:30:00Z")


Moment = Annotated[datetime, BeforeValidator(_moment)]


class KeyTable(fields.Table):
    """NAME = { sign = …, seal = … }: both public halves, as `valetkey keygen` prints them."""

    sign: fields.PublicKey = Field(description="as `valetkey keygen` prints it")
    seal: fields.PublicKey = Field(description="as `valetkey keygen` prints it")
    expires: Moment | None = Field(None, description="like 2027-11-25: not usable from then on")
    revoked: bool = Field(False, description="true refuses it, and says that it is revoked")

    @model_validator(mode="after")
    def _are_keys(self) -> Self:
        if self.sign == self.seal:
            raise field_error("sign and seal are two keys, and these are one")
        try:
            load_public_key(self.sign, self.seal)
        except ValueError:
            raise field_error(
                "these are no public keys: copy the line of `valetkey keygen`"
            ) from None
        return self

    def declared(self, name: str) -> TenantKey:
        """In the worker's form."""
        return TenantKey(name=name, **self.model_dump())
