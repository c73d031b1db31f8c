import os
from collections.abc import Iterable
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from worker.devstack.folder import StorageKeys

REGION = "us-east-1"  # any would do: it is no more than a word in the signature

# What this machine is set up for at AWS must not reach a toy storage, nor stand in its way.
_NO_FILE = (None, None, os.devnull, None)
_NO_AWS = {"profile": (None,) * 4, "config_file": _NO_FILE, "credentials_file": _NO_FILE}


def s3_client(endpoint: str, keys: StorageKeys, region: str) -> Any:
    """Make a boto3 client that signs with these keys alone, tries once, and goes past any proxy."""
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
    """Tell whether the server is up and accepts the client's signature."""
    try:
        s3.list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def create_buckets(s3: Any, names: Iterable[str]) -> None:
    """Create the buckets that are not there yet."""
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in sorted(set(names) - there):
        s3.create_bucket(Bucket=name)
