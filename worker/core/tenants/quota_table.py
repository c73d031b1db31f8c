"""[tenants.NAME.quotas] of tenants.toml: limits, and from where on there are warnings."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from valetkey.wire.refusals import Metric, Window
from worker.core.tenants import fields
from worker.core.tenants.config import Quota
from worker.core.tenants.fields import field_error


class LimitTable(fields.Table):
    """{ limit = …, warn = … }: a limit, and from what use of it on there are warnings."""

    limit: fields.Count = Field(description="a whole number")
    warn: fields.Count | None = Field(None, description='a number, or a share like "80%"')

    @field_validator("warn", mode="before")
    @classmethod
    def _of_the_limit(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str) or not value.endswith("%"):
            return value
        share = value.removesuffix("%").strip()
        if not (share.isascii() and share.isdecimal() and 1 <= int(share) <= 100):  # noqa: PLR2004 - percent
            raise field_error('a share of the limit is "1%" to "100%"')
        limit = info.data.get("limit")  # missing where it is wrong itself, which is said then
        return None if limit is None else -(-limit * int(share) // 100)

    @field_validator("warn")
    @classmethod
    def _can_be_reached(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > info.data.get("limit", value):
            raise field_error("a warning above the limit never comes")
        return value

    def declared(self, metric: Metric, window: Window) -> Quota:
        """In the worker's form."""
        return Quota(metric, window, self.limit, self.warn)


class SizeTable(LimitTable):
    """A limit in bytes."""

    limit: fields.Bytes = Field(description="bytes, or like 500KiB or 10GiB")
    warn: fields.Bytes | None = Field(None, description='a size, or a share like "80%"')


PLAIN_TAG = "[limit]"
"""What stands in an error's location where a value stands for a table that has it as its limit."""


def _form(value: Any) -> str:
    return "[table]" if isinstance(value, dict) else PLAIN_TAG


_Limit = Annotated[
    Annotated[fields.Count, Tag(PLAIN_TAG)] | Annotated[LimitTable, Tag("[table]")],
    Discriminator(_form),
]
_Size = Annotated[
    Annotated[fields.Bytes, Tag(PLAIN_TAG)] | Annotated[SizeTable, Tag("[table]")],
    Discriminator(_form),
]
TAGS = frozenset({PLAIN_TAG, "[table]"})
"""What stands in an error's location for the form that a limit was written in."""


class QuotaTable(fields.Table):
    """[tenants.NAME.quotas]: the limit of each window, by metric; all but live are of UTC."""

    grants: dict[Window, _Limit] = Field(default_factory=dict)
    download_grants: dict[Window, _Limit] = Field(default_factory=dict)
    upload_bytes: dict[Window, _Size] = Field(default_factory=dict)

    def declared(self) -> tuple[Quota, ...]:
        """In the worker's form, in the order of the database's key."""
        return (
            *_quotas("download_grants", self.download_grants),
            *_quotas("grants", self.grants),
            *_quotas("upload_bytes", self.upload_bytes),
        )


def _quotas(metric: Metric, limits: dict[Window, Any]) -> list[Quota]:
    return [
        limit.declared(metric, window)
        if isinstance(limit, LimitTable)
        else Quota(metric, window, limit)
        for window, limit in sorted(limits.items())
    ]


def parse_quota(metric: Metric, window: Window, limit: str, warn: str | int | None) -> Quota:
    """Read a quota as an operator types it. Raises pydantic's ValidationError."""
    table = SizeTable if metric == "upload_bytes" else LimitTable
    values = {"limit": limit, "warn": warn}
    return table.model_validate({k: _number(v) for k, v in values.items()}).declared(metric, window)


def _number(text: str | int | None) -> str | int | None:
    digits = text.replace("_", "") if isinstance(text, str) else ""
    return int(digits) if digits.isascii() and digits.isdecimal() else text
