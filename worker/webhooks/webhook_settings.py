"""The settings of the feature webhooks."""

from pydantic import Field

from worker.settings import SettingsModel


class WebhookSettings(SettingsModel):
    """The settings of the feature webhooks."""

    development: bool = Field(default=False, description="true or false")
    """Allows webhooks to `http://` URLs and to this machine. Never set it in production."""
