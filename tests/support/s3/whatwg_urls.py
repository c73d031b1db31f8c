"""URLs as browsers read them: by the URL class of Node.js, which the URL Standard defines."""

import json
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

_SCRIPT = """
const parsed = JSON.parse(require("fs").readFileSync(0)).map(text => {
  try {
    const url = new URL(text, "https://bucket.s3.example/upload")
    return [url.origin, url.pathname, url.username + url.password, url.hash]
  } catch { return null }
})
process.stdout.write(JSON.stringify(parsed))
"""


class BrowserUrl(NamedTuple):
    """The parts of a URL after a browser has parsed it."""

    origin: str
    path: str
    user: str
    fragment: str


def parse_as_browsers(node: str, urls: Sequence[str]) -> list[BrowserUrl | None]:
    """Return the parts of each URL, or None for one that a browser cannot open."""
    result = subprocess.run(
        [node, "-e", _SCRIPT], input=json.dumps(urls).encode(), capture_output=True, check=True
    )
    return [None if parts is None else BrowserUrl(*parts) for parts in json.loads(result.stdout)]
