"""Sessions of boto3, which share what botocore reads about services and regions from its files."""

from contextlib import suppress

import boto3
import botocore.session
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader


class _SharedLoader(Loader):  # type: ignore[misc] # botocore has no types
    """The files of botocore, read once for a process instead of once for each session.

    Reading them again takes 50 ms and 12 MB for each client of S3.
    """

    @property
    def search_paths(self) -> list[str]:
        # boto3 appends a folder for each session, which has only what clients do not need.
        return list(super().search_paths)


_LOADER = _SharedLoader()


def create_session(profile: str | None) -> boto3.Session:
    """Create a session of an AWS profile, or of boto3's default. Raises as boto3 does."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _LOADER)
    boto_session = boto3.Session(profile_name=profile, botocore_session=session)
    # Raises for a profile that does not exist. boto3 does so here to find a loader's folders.
    session.get_scoped_config()
    return boto_session


def load_service_files() -> None:
    """Read what clients of S3 need, so that processes share it that are forked later."""
    no_keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "-")
    # A wrong AWS setting is reported with each use of it. Some of them are plain ValueErrors.
    with suppress(BotoCoreError, ValueError):
        create_session(None).client("s3", region_name="us-east-1", **no_keys)
