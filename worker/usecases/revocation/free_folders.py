"""Folders that a statement may deny as a whole, because no other grant is below them."""

from collections.abc import Iterable
from functools import cached_property
from itertools import accumulate
from typing import Any

from worker.context import Context
from worker.core.revocation.bucket_policy import key_arn
from worker.core.signing.forms import FILENAME_VARIABLE
from worker.core.tenants.config import Bucket
from worker.core.tenants.storage_names import aws_partition, storage_name
from worker.db.engine import read_transaction
from worker.db.revocation.live_grants import read_in_storage

_SPECIAL = frozenset("*?$")  # stand for other characters in ARNs, or for any


class FreeFolders:
    """Says of folders in a bucket whether they may be denied as a whole.

    At most one tenant may have grants below it, and has none now except those that the statements
    deny. Later ones of that tenant are refused until the statement ends: that is the price of room.
    The live grants of the bucket are read once, and only if there is no room.
    """

    def __init__(
        self, bucket: Bucket, storage: str, statements: Iterable[dict[str, Any]], context: Context
    ) -> None:
        self._bucket = bucket
        self._storage = storage
        self._statements = statements
        self._context = context

    def __call__(self, folder: str) -> bool:
        """Return whether a folder, as the beginning of an ARN, is free. A bucket never is."""
        path = folder.partition("/")[2]
        if not path or _SPECIAL.intersection(path):
            return False
        free_names = tuple(key for key in self._keys if path.startswith(key))
        return path not in self._folders and not free_names and self._tenants_of(path) <= 1

    @cached_property
    def _keys(self) -> list[str]:
        """The keys of live grants that no statement denies. Those with free names are prefixes."""
        context, config = self._context, self._context.config.current()
        place = aws_partition(self._bucket.region), self._bucket.bucket
        is_aws = context.s3.is_aws(self._bucket)
        resources = [each for statement in self._statements for each in statement["Resource"]]
        denied = frozenset(resources)
        prefixes = tuple(each[:-1] for each in resources if each.endswith("*"))
        with read_transaction(context.engine) as connection:
            grants = read_in_storage(connection, self._storage, config, context.now())
        keys = {
            grant.object_key: key_arn(*place, grant.object_key, has_variables=is_aws)
            for grant in grants
        }
        others = (
            key for key, arn in keys.items() if arn not in denied and not arn.startswith(prefixes)
        )
        return [key.removesuffix(FILENAME_VARIABLE) for key in others]

    @cached_property
    def _folders(self) -> set[str]:
        """All folders above these keys."""
        return {
            folder
            for key in self._keys
            for folder in accumulate(f"{part}/" for part in key.split("/")[:-1])
        }

    def _tenants_of(self, path: str) -> int:
        """Return the number of tenants whose policies allow keys below a folder."""
        config = self._context.config.current()
        return sum(
            any(
                storage_name(config.buckets[profile]) == self._storage
                and any(path.startswith(p) or p.startswith(path) for p in policy.prefixes)
                for profile, policy in tenant.policies.items()
            )
            for tenant in config.tenants.values()
        )
