"""The addresses of a stack, and the environment of the commands that use it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

# A developer's AWS credentials must never sign for the embedded storage, and Celery prefers its
# CELERY_ variables to explicit settings.
_EXCLUDED_PREFIXES = ("AWS_", "CELERY_")


@dataclass(frozen=True, slots=True)
class StackInfo:
    """The addresses, credentials and process ids of a stack: the content of dev.json.

    tenant is the one for which producers make requests if they name none. public_keys are the
    signing keys that the service accepts, by key id.
    """

    broker_url: str
    result_url: str
    database_url: str = field(repr=False)
    s3_endpoint: str
    s3_region: str
    s3_access_key: str
    s3_secret_key: str = field(repr=False)
    tenant: str
    public_keys: Mapping[str, str]
    pids: Mapping[str, int]


def service_environment(environ: Mapping[str, str], **settings: str) -> dict[str, str]:
    """Return the service's environment.

    It contains the settings, and the variables of `environ` except those of AWS and Celery, which
    could misconfigure the service.
    """
    inherited = {
        name: value for name, value in environ.items() if not name.startswith(_EXCLUDED_PREFIXES)
    }
    no_aws_config = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return inherited | no_aws_config | settings
