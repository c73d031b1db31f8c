"""Folders that a statement may deny as a whole, because no other grant is below them."""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial

from worker.context import Context
from worker.core.revocation.bucket_policy import includes, key_arn
from worker.core.signing.forms import FILENAME_VARIABLE
from worker.core.tenants.config import Bucket
from worker.core.tenants.storage_names import aws_partition, storage_name
from worker.db.engine import read_transaction
from worker.db.revocation.live_grants import read_keys
from worker.db.revocation.rows import DenialRow

_SPECIAL = frozenset("*?$")  # stand for other characters in ARNs, or for any


def free_folders(
    bucket: Bucket, storage: str, denials: Sequence[DenialRow], context: Context
) -> Callable[[str], bool]:
    """Return a function that says whether a folder, as the beginning of an ARN, may be denied.

    At most one tenant may have grants below it, and has none now except those that the statements
    deny until they end. Later ones are refused until the statement ends: that is the price of room.
    A bucket as a whole is never denied.
    """
    config, is_aws = context.config.current(), context.s3.is_aws(bucket)
    arn = partial(key_arn, aws_partition(bucket.region), bucket.bucket, has_variables=is_aws)

    @cache
    def other_keys() -> list[str]:
        denied = [(json.loads(each.statement)["Resource"], each.lapses_at) for each in denials]
        with read_transaction(context.engine) as connection:
            keys = read_keys(connection, storage, config, context.now())
        return [
            key.removesuffix(FILENAME_VARIABLE)
            for key, end in keys.items()
            if not any(last and last >= end and includes(each, arn(key)) for each, last in denied)
        ]

    @cache
    def is_free(folder: str) -> bool:
        path = folder.partition("/")[2]
        if not path or _SPECIAL.intersection(path):
            return False
        tenants = {
            tenant.id
            for tenant in config.tenants.values()
            for profile, policy in tenant.policies.items()
            if storage_name(config.buckets[profile]) == storage
            and any(path.startswith(each) or each.startswith(path) for each in policy.prefixes)
        }
        return len(tenants) <= 1 and not any(
            key.startswith(path) or path.startswith(key) for key in other_keys()
        )

    return is_free
