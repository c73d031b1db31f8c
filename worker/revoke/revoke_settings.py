"""The settings of the feature revoke."""

from worker.settings import Endpoint, SettingsModel


class RevokeSettings(SettingsModel):
    """The settings of the feature revoke."""

    iam_endpoint: Endpoint | None = None
    """The IAM endpoint at which `revoke --end-sessions` changes the policy of such a role. If
    unset: AWS."""
