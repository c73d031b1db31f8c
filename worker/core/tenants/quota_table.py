"""The [tenants.NAME.quotas] table of tenants.toml: limits and the thresholds of their warnings."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from valetkey.wire.refusals import Metric, Window
from worker.core.tenants import fields
from worker.core.tenants.config import Quota
from worker.core.tenants.fields import field_error


class QuotaLimitTable(fields.Table):
    """{ limit = …, warn = … }: a limit and the usage from which warnings are sent."""

    limit: fields.CountLimit = Field(description="a whole number")
    warn: fields.CountLimit | None = Field(
        None, description='a number up to the limit, or a percentage like "80%"'
    )

    @field_validator("warn", mode="before")
    @classmethod
    def _parse_percentage(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str) or not value.endswith("%"):
            return value
        digits = value.removesuffix("%").strip()
        if not (digits.isascii() and digits.isdecimal() and 1 <= int(digits) <= 100):  # noqa: PLR2004 - percent
            raise field_error('a percentage of the limit is "1%" to "100%", in whole percent')
        limit = info.data.get("limit")
        if limit is None:  # the limit itself is invalid, and has an error of its own
            return None
        return -(-limit * int(digits) // 100)  # rounded up

    @field_validator("warn")
    @classmethod
    def _check_warn(cls, value: int | None, info: ValidationInfo) -> int | None:
        limit = info.data.get("limit")
        if value is not None and limit is not None and value > limit:
            raise field_error(
                f"usage never reaches a warning above the limit: write {limit} or less"
            )
        return value

    def to_config(self, metric: Metric, window: Window) -> Quota:
        """Convert to the worker's form."""
        return Quota(metric, window, self.limit, self.warn)


class ByteLimitTable(QuotaLimitTable):
    """{ limit = …, warn = … } in bytes."""

    limit: fields.ByteLimit = Field(description="bytes, or a size like 500KiB or 10GiB")
    warn: fields.ByteLimit | None = Field(
        None, description='a size up to the limit, or a percentage like "80%"'
    )


def limit_table_class(metric: Metric) -> type[QuotaLimitTable]:
    """Return the class of a metric's limits: numbers of grants, or bytes."""
    return ByteLimitTable if metric.endswith("_bytes") else QuotaLimitTable


PLAIN_TAG = "[limit]"
"""The part of an error's location that marks a plain value in place of a limit table."""

_TABLE_TAG = "[table]"

TAGS = frozenset({PLAIN_TAG, _TABLE_TAG})
"""The parts of an error's location that mark the form of a limit, and are not in the file."""


def _select_tag(value: Any) -> str:
    return _TABLE_TAG if isinstance(value, dict) else PLAIN_TAG


_CountLimitForms = Annotated[
    Annotated[fields.CountLimit, Tag(PLAIN_TAG)] | Annotated[QuotaLimitTable, Tag(_TABLE_TAG)],
    Discriminator(_select_tag),
]
_ByteLimitForms = Annotated[
    Annotated[fields.ByteLimit, Tag(PLAIN_TAG)] | Annotated[ByteLimitTable, Tag(_TABLE_TAG)],
    Discriminator(_select_tag),
]


ONLY_LIVE = "stored_bytes counts what is stored now: its only window is live"


class QuotaTable(fields.Table):
    """[tenants.NAME.quotas]: limits by metric and window. All windows but live are in UTC."""

    grants: dict[Window, _CountLimitForms] = Field(default_factory=dict)
    download_grants: dict[Window, _CountLimitForms] = Field(default_factory=dict)
    stored_bytes: dict[Window, _ByteLimitForms] = Field(default_factory=dict)
    upload_bytes: dict[Window, _ByteLimitForms] = Field(default_factory=dict)

    @field_validator("stored_bytes", mode="before")
    @classmethod
    def _check_window(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.keys() <= {"live"}:
            raise field_error(ONLY_LIVE)
        return value

    def to_config(self) -> tuple[Quota, ...]:
        """Convert to the worker's form, in the order of the database's primary key."""
        return (
            *_to_quotas("download_grants", self.download_grants),
            *_to_quotas("grants", self.grants),
            *_to_quotas("stored_bytes", self.stored_bytes),
            *_to_quotas("upload_bytes", self.upload_bytes),
        )


def _to_quotas(metric: Metric, limits: dict[Window, Any]) -> list[Quota]:
    return [
        limit.to_config(metric, window)
        if isinstance(limit, QuotaLimitTable)
        else Quota(metric, window, limit)
        for window, limit in sorted(limits.items())
    ]


def parse_quota(metric: Metric, window: Window, limit: str, warn: str | int | None) -> Quota:
    """Parse a quota from command-line arguments. Raises pydantic's ValidationError."""
    values = {"limit": _parse_number(limit), "warn": _parse_number(warn)}
    return limit_table_class(metric).model_validate(values).to_config(metric, window)


def _parse_number(text: str | int | None) -> str | int | None:
    digits = text.replace("_", "") if isinstance(text, str) else ""
    return int(digits) if digits.isascii() and digits.isdecimal() else text
