"""The operations of the compatibility matrix, by the command line."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from valetkey.cli.main import main
from valetkey.client import new_id

BUCKET = "demo"


def run_command(arguments: list[str], environ: dict[str, str]) -> dict[str, Any]:
    """Run a command of valetkey; return its exit code and what it printed."""
    result = CliRunner().invoke(main, arguments, env=environ)
    return {"exit": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}


class _Commands:
    def __init__(self, environ: dict[str, str], limited: dict[str, str], folder: str) -> None:
        self._environ = environ
        self._limited = limited
        self._folder = Path(folder)

    def json(self, *arguments: str, limited: bool = False) -> Any:
        """Return the lines of JSON that a command prints, or all of its output."""
        environ = self._limited if limited else self._environ
        printed = run_command([*arguments, "--json"], environ)
        lines = [json.loads(line) for line in printed["stdout"].splitlines()]
        return lines or printed

    def store(self, key: str) -> dict[str, Any]:
        """Upload a file in parts."""
        path = self._folder / "film.bin"
        path.write_bytes(b"x" * 20)
        return run_command(["multipart", BUCKET, key, "--file", str(path)], self._environ)

    def manifest(self, prefix: str) -> Any:
        """Request the rows of a file with a manifest."""
        rows = self._folder / "rows.txt"
        rows.write_text("".join(f"{prefix}/{number}\n" for number in range(5)))
        manifest = f"{prefix}/manifest.jsonl.gz"
        return self.json("download", BUCKET, "--from", str(rows), "--manifest", manifest)[0]

    def bulk(self, prefix: str) -> Any:
        """Request the rows of a file, and return the rows of the output."""
        rows, out = self._folder / "rows.csv", self._folder / "out.jsonl"
        out.unlink(missing_ok=True)
        lines = "".join(f"{prefix}/bulk-{number},{number}\n" for number in range(5))
        rows.write_text(f"key,size\n{lines}")
        arguments = ["put", BUCKET, "--from", str(rows), "--out", str(out)]
        printed = run_command(arguments, self._environ)
        return [json.loads(line) for line in out.read_text().splitlines()] or printed


def run_commands(
    main: dict[str, str], limited: dict[str, str], prefixes: list[str], folder: str
) -> dict[str, Any]:
    """Perform every operation that the command line has; return the results by operation."""
    commands = _Commands(main, limited, folder)
    prefix, limited_prefix = prefixes
    requests = {
        "download": ["--filename", "statement.pdf"],
        "upload": ["--max-size", "1000", "--content-type", "text/plain"],
        "put": ["--size", "20", "--content-type", "text/plain", "--meta", "a=b"],
        "multipart": ["--size", "20"],
    }
    commands.json("download", BUCKET, f"{limited_prefix}/first", limited=True)
    results: dict[str, Any] = {}
    for kind, options in requests.items():
        results[f"{kind}: granted"] = commands.json(kind, BUCKET, f"{prefix}/{kind}", *options)[0]
        refused = commands.json(kind, BUCKET, f"elsewhere/{kind}", *options)
        results[f"{kind}: refused by policy"] = refused[0]
        over = commands.json(kind, BUCKET, f"{limited_prefix}/{kind}", *options, limited=True)
        results[f"{kind}: refused by quota"] = over[0]
    explained = commands.json("download", BUCKET, f"{prefix}/a", "--dry-run")
    batch_id = new_id()
    return results | {
        "parts: granted": commands.store(f"{prefix}/parts"),
        "usage": commands.json("usage"),
        "cancel": commands.json("cancel", batch_id),
        "explain": explained,
        "manifest": commands.manifest(prefix),
        "webhook": commands.json("download", BUCKET, f"{prefix}/hook", "--callback", "hook")[0],
        "bulk file": commands.bulk(prefix),
    }
