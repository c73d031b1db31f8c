"""Folders that a statement may deny as a whole, because no other grant is below them."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass
class FreeFolders:
    """Says of folders in a bucket whether they may be denied as a whole.

    At most one tenant may have grants below it, and has none now except those that the statements
    deny. Later ones of that tenant are refused until the statement ends: that is the price of room.
    The live grants of the bucket are read once, and only if there is no room.
    """

    bucket: Bucket
    storage: str
    statements: Sequence[dict[str, Any]]
    context: Context

    def __call__(self, folder: str) -> bool:
        """Return whether a folder, as the beginning of an ARN, is free. A bucket never is."""
        path = folder.partition("/")[2]
        if not path or _SPECIAL.intersection(path) or path in self._folders:
            return False
        has_free_names = any(path.startswith(key) for key in self._keys)
        return not has_free_names and self._tenants_below(path) <= 1

    @cached_property
    def _keys(self) -> list[str]:
        """The keys of live grants that no statement denies. Those with free names are prefixes."""
        place = aws_partition(self.bucket.region), self.bucket.bucket
        is_aws = self.context.s3.is_aws(self.bucket)
        resources = [each for statement in self.statements for each in statement["Resource"]]
        denied = frozenset(resources)
        prefixes = tuple(each[:-1] for each in resources if each.endswith("*"))
        config, now = self.context.config.current(), self.context.now()
        with read_transaction(self.context.engine) as connection:
            grants = read_in_storage(connection, self.storage, config, now)
        arns = {
            each.object_key: key_arn(*place, each.object_key, has_variables=is_aws)
            for each in grants
        }
        return [
            key.removesuffix(FILENAME_VARIABLE)
            for key, arn in arns.items()
            if arn not in denied and not arn.startswith(prefixes)
        ]

    @cached_property
    def _folders(self) -> set[str]:
        """All folders above these keys."""
        parts = (key.split("/")[:-1] for key in self._keys)
        return {folder for each in parts for folder in accumulate(f"{part}/" for part in each)}

    def _tenants_below(self, path: str) -> int:
        """Return the number of tenants whose policies allow keys below a folder."""
        config = self.context.config.current()
        allowed = {
            tenant.id
            for tenant in config.tenants.values()
            for profile, policy in tenant.policies.items()
            if storage_name(config.buckets[profile]) == self.storage
            and any(path.startswith(each) or each.startswith(path) for each in policy.prefixes)
        }
        return len(allowed)
