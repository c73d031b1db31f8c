"""Links into a CSV file: `valetkey download --from`, compared with a boto3 loop.

Ours is the command as a user starts it, with its start-up, from a list of keys to the complete
file. The loop runs in this process with a cached client, signs plain GET URLs, which takes less
than what our links have, and writes the same columns. It has the same cost for each link, so it
signs fewer of them in each round; the links a second of both are compared.
"""

import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from bench import service
from bench.comparison import alternate, compare, elapsed_seconds, inverse
from bench.metrics import Measurements
from bench.signing import Sign, boto3_client, boto3_get
from worker.dev.stack import Stack

ROUNDS = 9
LINKS = 1_000_000
_LOOP_LINKS = 20_000
_COLUMNS = (
    *("key", "id", "method", "url", "fields", "headers", "expires_at", "limited_by"),
    *("refused", "field", "message", "charged"),
)
_COMMAND = Path(sys.executable).with_name("valetkey")


def measure(links: int = LINKS, rounds: int = ROUNDS) -> Measurements:
    """Measure both databases."""
    with tempfile.TemporaryDirectory(prefix="valetkey-bench-csv-") as folder:
        keys = Path(folder) / "keys.txt"
        with keys.open("w", encoding="utf-8") as file:
            file.writelines(f"2026/11/u-{number}.pdf\n" for number in range(links))
        return service.measure_on_both(lambda url: _measure(url, keys, links, rounds))


def _measure(database_url: str | None, keys: Path, links: int, rounds: int) -> Measurements:
    sign = boto3_get(boto3_client())
    loop_keys = keys.read_text(encoding="utf-8").splitlines()[:_LOOP_LINKS]
    with service.running_service(database_url) as stack:
        _download(stack, _first_lines(keys, 1_000))  # warm up connections and credentials
        service.analyze_tables(stack)
        rates = compare(
            alternate(
                lambda: links / elapsed_seconds(lambda: _download(stack, keys)),
                lambda: (
                    len(loop_keys)
                    / elapsed_seconds(lambda: _loop(sign, loop_keys, keys.with_name("loop.csv")))
                ),
                rounds,
            )
        )
    return {
        "csv_links_vs_boto3": rates.ratio.map(inverse),
        "csv_links_per_second": rates.ours,
        "csv_boto3_links_per_second": rates.theirs,
    }


def _first_lines(keys: Path, count: int) -> Path:
    path = keys.with_name("first.txt")
    with keys.open(encoding="utf-8") as source, path.open("w", encoding="utf-8") as target:
        target.writelines(islice(source, count))
    return path


def _download(stack: Stack, keys: Path) -> None:
    output = keys.with_name("links.csv")
    options = ("--from", str(keys), "--out", str(output), "--force")
    command = [str(_COMMAND), "download", service.BUCKET, *options]
    environ = service.producer_environment(stack)
    ended = subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True, check=True)
    if "none refused" not in ended.stderr:
        raise RuntimeError("a link was refused, so the measurement is not valid")


def _loop(sign: Sign, keys: Iterable[str], output: Path) -> None:
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        expires_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        for number, key in enumerate(keys):
            url = sign(key)
            row = (key, number, "GET", url, "{}", "{}", expires_at, "request", "", "", "", "yes")
            writer.writerow(row)
