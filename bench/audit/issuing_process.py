"""Issues chunks in a process of its own, as fast as one worker process can; the parent times it.

It runs with the code of any checkout, so that a release is compared with an earlier one. It reads
numbers of chunks from stdin, and writes the seconds that issuing them took to stdout.
"""

import os
import sys
from time import perf_counter

from tests.support.builders.messages import Clock, batch_id, split_chunks, tenant_config
from tests.support.builders.services import build_service
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, write_transaction
from worker.cli.database import migrate_to_head
from worker.ledger import tenant_rows
from worker.rules.tenant_config import TenantConfig
from worker.tenants.config_changes import ChangeAuthor, change_config

CHUNK_ITEMS = 600


def main() -> None:
    """Issue as many chunks as each line of stdin says, in one batch."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    url = sys.argv[1]
    migrate_to_head(url)
    engine, clock = create_database_engine(url), Clock()
    with write_transaction(engine) as connection:
        old = tenant_rows.load_config(connection)
        if "acme" not in old.tenants:
            added = tenant_config(max_batch=1_000_000)
            new = TenantConfig({**old.buckets, **added.buckets}, {**old.tenants, **added.tenants})
            change_config(connection, old, new, ChangeAuthor(clock(), "bench", "apply"))
    service = build_service(engine, S3Clients(), clock)
    for line in sys.stdin:
        messages = split_chunks(_message(int(line) * CHUNK_ITEMS), CHUNK_ITEMS)
        start = perf_counter()
        statuses = {service.issue(message)["status"] for message in messages}
        seconds = perf_counter() - start
        if statuses != {"issued"}:
            raise RuntimeError("a chunk was refused, so the measurement is not valid")
        print(seconds, flush=True)


def _message(total: int) -> dict[str, object]:
    id_ = batch_id()
    return {
        "v": 1,
        "tenant": "acme",
        "batch": id_,
        "requested_by": "bench",
        "grant": {"kind": "download", "bucket": "demo", "expires_in": 300},
        "total": total,
        "chunk": 0,
        "items": [{"key": f"acme/{id_[-4:]}/{number}.pdf"} for number in range(total)],
    }


if __name__ == "__main__":
    main()
