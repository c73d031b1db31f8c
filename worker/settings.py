from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from valetkey.config import results_beside


def _beside_the_broker(settings: dict[str, Any]) -> SecretStr:
    """Where clients that are told no more of it look for answers."""
    broker: str = settings["broker_url"].get_secret_value()
    return SecretStr(results_beside(broker) or "redis://127.0.0.1:6379/1")


class Settings(BaseSettings):
    """What the service is told by its environment: one variable each, with the prefix VALETKEY_.

    URLs are secret: they may hold a password.
    """

    model_config = SettingsConfigDict(env_prefix="VALETKEY_", extra="ignore", frozen=True)

    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    result_url: SecretStr = Field(default_factory=_beside_the_broker)
    database_url: SecretStr = SecretStr("sqlite:///.valetkey/valetkey.db")
    s3_endpoint: str | None = None
    """The endpoint of bucket profiles that name none; unset, that is AWS."""
    sts_endpoint: str | None = None
    """Where the roles of bucket profiles are assumed; unset, at AWS in the bucket's region."""
    development: bool = False
    """Webhooks may then go to http:// and to this machine."""
    sweep_seconds: float = Field(default=5.0, gt=0)
    """How often beat looks for what is due in the database."""
    concurrency: int = Field(default=2, ge=1)
