"""A tenants.toml that a test writes and the service reads."""

from pathlib import Path

from worker.rules.tenant_config import TenantConfig
from worker.tenants.tenants_file import FileProblem, read_tenants_file


class TenantsFile:
    """Reads a text as the tenants.toml of a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tenants.toml"

    def config(self, text: str) -> TenantConfig:
        """Return the config of a valid file."""
        result = self._read(text)
        assert isinstance(result, TenantConfig), result
        return result

    def problems(self, text: str | bytes) -> list[FileProblem]:
        """Return the problems of an invalid file."""
        result = self._read(text)
        assert isinstance(result, list)
        return result

    def problem(self, text: str | bytes) -> FileProblem:
        """Return the only problem of an invalid file."""
        problems = self.problems(text)
        assert len(problems) == 1, problems
        return problems[0]

    def _read(self, text: str | bytes) -> TenantConfig | list[FileProblem]:
        self._file.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_tenants_file(self._file)
