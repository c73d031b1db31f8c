"""Issue a batch of downloads and an upload in this process, on a new database: see tools/without.

If the feature `dev` is left, its embedded storage stores what is uploaded and returns it.
"""

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx

from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, write_transaction
from worker.context import Context
from worker.features import NAMES
from worker.issue.dispatch import respond
from worker.ledger.tenant_rows import ConfigStore, load_config
from worker.rules.tenant_config import Bucket, Policy, Tenant, TenantConfig
from worker.tenants.config_changes import ChangeAuthor, change_config

BUCKET, TEXT, TYPE = "valetkey-demo", b"stored", "text/plain"


def main() -> int:
    """Migrate a new database, issue grants, and use them if there is a storage."""
    with tempfile.TemporaryDirectory() as folder, storage(Path(folder)) as endpoint:
        url = f"sqlite:///{folder}/valetkey.db"
        command = [sys.executable, "-m", "worker", "migrate"]
        subprocess.run(command, check=True, env=os.environ | {"VALETKEY_DATABASE_URL": url})
        engine = create_database_engine(url)
        context = Context(engine, ConfigStore(engine), S3Clients())
        bucket = Bucket("demo", BUCKET, "us-east-1", "path", endpoint or "http://127.0.0.1:9")
        policy = Policy("demo", ("acme/",), ("download", "upload"), 600, 1_000, (TYPE,), ())
        tenant = Tenant("acme", trust="queue", policies={"demo": policy})
        config = TenantConfig({"demo": bucket}, {"acme": tenant})
        with write_transaction(engine) as connection:
            by = ChangeAuthor(clock.now(), "ops", "apply")
            change_config(connection, load_config(connection), config, by)
        terms = {"max_size": 100, "content_type": TYPE}
        [upload] = issue(context, ["acme/0"], kind="upload", **terms)
        downloads = issue(context, [f"acme/{number}" for number in range(100)], kind="download")
        engine.dispose()
        if endpoint:
            use(upload, downloads[0])
    return 0


@contextmanager
def storage(folder: Path) -> Iterator[str | None]:
    """Yield the endpoint of an embedded storage with a bucket, None without the feature `dev`."""
    if "dev" not in NAMES:
        os.environ |= {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example"}
        yield None
        return
    keys = import_module("worker.dev.data_folder").storage_keys(folder)
    servers = import_module("worker.dev.embedded_servers")
    os.environ |= {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    with servers.running_seaweedfs(folder, keys) as server:
        servers.create_buckets(server.client(), [BUCKET])
        yield server.endpoint


def issue(context: Context, keys: list[str], **terms: Any) -> list[dict[str, Any]]:
    """Return the granted items of a batch in one chunk."""
    message = {
        "v": 1,
        "tenant": "acme",
        "batch": str(uuid.uuid4())[:14] + "7" + str(uuid.uuid4())[15:],
        "requested_by": "make without",
        "reason": "to show that a feature can be deleted",
        "grant": {"bucket": "demo", "expires_in": 300, **terms},
        "total": len(keys),
        "chunk": 0,
        "items": [{"key": key} for key in keys],
    }
    values = respond(message, context).values
    items: list[dict[str, Any]] = values["items"]
    if len(items) != len(keys) or not all(item.get("url") for item in items):
        sys.exit(f"refused: {values}")
    return items


def use(upload: dict[str, Any], download: dict[str, Any]) -> None:
    """Store an object with one grant, and read it with another."""
    file = {"file": ("a.txt", TEXT, TYPE)}
    httpx.post(upload["url"], data=upload["fields"], files=file).raise_for_status()
    if httpx.get(download["url"]).raise_for_status().content != TEXT:
        sys.exit("the storage returns something else than what was uploaded")


if __name__ == "__main__":
    sys.exit(main())
