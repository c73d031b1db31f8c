"""Finds a `dev` that runs in another process, and configures commands for it."""

import json
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from valetkey.dev_files import find_dev_file
from worker.devstack.folder import FolderUnusable, has_running_stack
from worker.devstack.stack_info import StackInfo, service_environment
from worker.setting_names import names_service


@dataclass(frozen=True, slots=True)
class RunningDev:
    """A `dev` that runs now, by its data folder and the content of its dev.json."""

    data: Path
    info: StackInfo = field(repr=False)

    @contextmanager
    def configuring(self, environ: MutableMapping[str, str]) -> Iterator[None]:
        """Let commands find this service in the environment while the block runs."""
        before = dict(environ)
        environ.clear()
        environ.update(
            service_environment(
                before,
                VALETKEY_BROKER_URL=self.info.broker_url,
                VALETKEY_RESULT_URL=self.info.result_url,
                VALETKEY_DATABASE_URL=self.info.database_url,
                VALETKEY_S3_ENDPOINT=self.info.s3_endpoint,
                VALETKEY_DEVELOPMENT="1",
                AWS_ACCESS_KEY_ID=self.info.s3_access_key,
                AWS_SECRET_ACCESS_KEY=self.info.s3_secret_key,
                AWS_DEFAULT_REGION=self.info.s3_region,
            )
        )
        try:
            yield
        finally:
            environ.clear()
            environ.update(before)


def find_running_dev(environ: Mapping[str, str], folder: Path) -> RunningDev | None:
    """Return the `dev` that runs in VALETKEY_DATA_DIR, or at or above a folder.

    Returns None if there is none, or if a setting names a service: production is never shadowed.
    Raises FolderUnusable if VALETKEY_DATA_DIR names a folder in which none runs.
    """
    if names_service(environ):
        return None
    path = find_dev_file(environ, folder)
    running = read_running_dev(path.parent) if path else None
    if running is None and environ.get("VALETKEY_DATA_DIR"):
        raise FolderUnusable(
            f"No `python -m worker dev` runs in {environ['VALETKEY_DATA_DIR']}, the "
            "VALETKEY_DATA_DIR: start it, or unset the variable."
        )
    return running


def read_running_dev(data: Path) -> RunningDev | None:
    """Return the `dev` that runs in a data folder, None if none is ready there."""
    try:
        content = json.loads((data / "dev.json").read_text(encoding="utf-8"))
        info = StackInfo(**content)
    except (OSError, ValueError, TypeError):  # also that of a release with other fields
        return None
    return RunningDev(data.resolve(), info) if has_running_stack(data) else None
