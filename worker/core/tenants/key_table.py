"""The [tenants.NAME.keys] table of tenants.toml: public keys whose signatures are accepted."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from valetkey.crypto.keys import build_public_key
from worker.core.tenants import fields
from worker.core.tenants.config import TenantKey
from worker.core.tenants.fields import field_error


def _parse_time(value: Any) -> Any:
    """Convert a TOML date or date-time, or its text, to UTC. UTC is the default time zone."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(time, date) and not isinstance(time, datetime):
            time = datetime(time.year, time.month, time.day, tzinfo=UTC)
        if isinstance(time, datetime):
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise field_error("this must be a date, or a date and time in ISO 8601")


_Time = Annotated[datetime, BeforeValidator(_parse_time)]


class KeyTable(fields.Table):
    """NAME = { sign = …, seal = … }: two public keys, as `valetkey keygen` prints them."""

    sign: fields.EncodedPublicKey = Field(description="copy the line that `valetkey keygen` prints")
    seal: fields.EncodedPublicKey = Field(description="copy the line that `valetkey keygen` prints")
    expires: _Time | None = Field(
        None, description="like 2027-11-25, which is 00:00 UTC, or 2027-11-25T08:30:00Z"
    )
    revoked: bool = Field(False, description="true refuses the key's messages as key_revoked")

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.sign == self.seal:
            raise field_error(
                "sign and seal are two different keys, but here they are equal: copy the line of"
                " `valetkey keygen`"
            )
        try:
            build_public_key(self.sign, self.seal)
        except ValueError:
            raise field_error(
                "sign and seal are not valid public keys: copy the line of `valetkey keygen`"
            ) from None
        return self

    def to_config(self, name: str) -> TenantKey:
        """Convert to the worker's form."""
        return TenantKey(name=name, **self.model_dump())
