import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from valetkey.config import default_result_url
from valetkey.redis_urls import verify_by_default


def _default_result_url(settings: dict[str, Any]) -> SecretStr:
    """Return the URL that clients read results from if they know only the broker's."""
    broker_url: str = settings["broker_url"].get_secret_value()
    return SecretStr(default_result_url(broker_url) or "redis://127.0.0.1:6379/1")


def _verify_by_default(url: SecretStr) -> SecretStr:
    return SecretStr(verify_by_default(url.get_secret_value()))


ServerUrl = Annotated[SecretStr, AfterValidator(_verify_by_default)]
"""The URL of a broker or result store; of a rediss:// URL, the server is verified."""


def _check_broker(url: SecretStr) -> SecretStr:
    scheme, separator, rest = url.get_secret_value().partition("://")
    if not separator or scheme.lower() not in {"redis", "rediss"}:
        raise ValueError("the broker must be Redis or Valkey: write a redis:// or rediss:// URL")
    return SecretStr(f"{scheme.lower()}://{rest}")  # libraries compare it as it is written


BrokerUrl = Annotated[SecretStr, AfterValidator(_check_broker), AfterValidator(_verify_by_default)]


def _check_endpoint(url: str) -> str:
    if re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", url) is None:
        raise ValueError(
            "write http:// or https://, a host and an optional port, without a path or final slash"
        )
    return url


S3Endpoint = Annotated[str, AfterValidator(_check_endpoint)]


class Settings(BaseSettings):
    """The service's settings: one environment variable each, with the prefix VALETKEY_.

    URLs are secret, because they may contain a password.
    """

    model_config = SettingsConfigDict(env_prefix="VALETKEY_", extra="ignore", frozen=True)

    broker_url: BrokerUrl = SecretStr("redis://127.0.0.1:6379/0")
    result_url: ServerUrl = Field(default_factory=_default_result_url)
    database_url: SecretStr = SecretStr("sqlite:///.valetkey/valetkey.db")
    s3_endpoint: str | None = None
    """The endpoint of bucket profiles that set none; if unset, AWS."""
    s3_internal_endpoint: S3Endpoint | None = None
    """The endpoint that the service itself calls for those profiles; if unset, the one in links."""
    sts_endpoint: str | None = None
    """The STS endpoint that assumes bucket profiles' roles; if unset, AWS in the bucket's region.
    """
    development: bool = False
    """Allow webhooks to http:// URLs and to loopback addresses."""
    sweep_seconds: float = Field(default=5.0, gt=0, le=3600, allow_inf_nan=False)
    """Seconds between two scheduled checks for deliveries and manifests that are due."""
    concurrency: int = Field(default=2, ge=1)


def setting_errors(error: ValidationError) -> list[str]:
    """Return a line for each invalid setting: its variable and what is expected, not its value."""
    return [
        f"VALETKEY_{details['loc'][0]}".upper() + f": {details['msg']}"
        for details in error.errors(include_url=False, include_input=False)
        # A default that depends on another setting, which has an error itself.
        if details["type"] != "default_factory_not_called"
    ]
