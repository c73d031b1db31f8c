import os
from collections.abc import Iterable
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from worker.devstack.folder import StorageKeys
from worker.devstack.processes import StartFailed

REGION = "us-east-1"  # arbitrary: the region only enters the signature

# The machine's AWS profiles must neither reach the embedded storage nor break its clients.
_NO_FILE = (None, None, os.devnull, None)
_NO_AWS = {"profile": (None,) * 4, "config_file": _NO_FILE, "credentials_file": _NO_FILE}


def s3_client(endpoint: str, keys: StorageKeys, region: str) -> Any:
    """Return a boto3 client that signs with these keys, does not retry, and uses no proxy."""
    session = boto3.session.Session(
        botocore_session=botocore.session.Session(session_vars=_NO_AWS),
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        region_name=region,
    )
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        connect_timeout=1,
        proxies={},
    )
    return session.client("s3", endpoint_url=endpoint, config=config)


def accepts_credentials(s3: Any) -> bool:
    """Return whether the server is up and accepts the client's signature."""
    try:
        s3.list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def create_buckets(s3: Any, names: Iterable[str]) -> None:
    """Create the buckets that do not exist. Raises StartFailed."""
    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in sorted(set(names) - existing):
        try:
            s3.create_bucket(Bucket=name)
        except (BotoCoreError, ClientError) as error:
            raise StartFailed(f"The bucket {name} cannot be created: {error}") from None
