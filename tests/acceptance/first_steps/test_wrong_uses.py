"""Wrong uses of both command lines, with what each must say, against a running service."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.acceptance.conftest import ROOT, Service
from tests.support.servers.programs import run_program
from valetkey.cli.main import main as valetkey
from worker.__main__ import main as worker

FILES = {
    "keys.txt": "acme/a\nacme/b\n",
    "empty.txt": "",
    "bad-row.csv": "key,expires_in\nacme/a,1h\nacme/b,soon\n",
    "finished.csv": "key,url\n",
    "unknown-field.toml": '[tenants.acme.allow.demo]\nprefix = ["acme/"]\n',
    "tenants.toml": '[buckets.demo]\nbucket = "valetkey-demo"\nregion = "us-east-1"\n',
}
# A shell command, its exit code, and words of its message. $V is the command of producers and $W
# that of operators. Commands with a redirection run in a shell, the others in this process.
WRONG_USES = (
    ("$V dowload demo acme/a", 2, "Did you mean one of"),
    ("$V download demo globex/a", 1, "key_outside_prefix"),
    ("$V download DEMO acme/a", 2, "DEMO"),
    ("$V presign acme/a", 2, "s3://"),
    ("$V download demo acme/a --expires-in 2d", 1, "expiry_too_long"),
    ("$V download demo acme/a --expires_in 1h", 2, "--expires-in"),
    ("$V download demo acme/a --method DELETE", 2, "--method"),
    ("$V download demo acme/a --tenant nobody", 1, "signature_required"),
    ("$V download demo acme/a --out missing/a.txt", 2, "missing"),
    ("$V download demo acme/a > /dev/full", 5, "No space left"),
    ("$V download demo acme/a >&-", 5, "stdout"),
    ("$V download demo --from empty.txt", 2, "empty.txt"),
    ("$V download demo --from bad-row.csv", 1, "line 3"),
    ("$V download demo --from keys.txt --out finished.csv", 2, "--force"),
    ("$V upload demo acme/a --max-size 1KiB --content-type ''", 2, "--content-type"),
    ("$V upload demo acme/a --max-size 1KiB --content-type text/html", 1, "browsers"),
    ("$V put demo acme/a --file missing", 2, "missing"),
    ("$V put demo acme/a --file .", 2, "directory"),
    ("$V multipart demo acme/a --file keys.txt --resume", 2, "resume"),
    ("$V cancel 01932c07-0000-7000-8000-000000000000", 1, "no message"),
    ("VALETKEY_BROKER_URL=redis://127.0.0.1:1/0 $V usage", 2, "VALETKEY_TENANT"),
    ("VALETKEY_BROKER_URL=redis://no.invalid $V usage --tenant acme", 3, "no.invalid"),
    ("$V webhooks listen", 2, "needs the tenant's key"),
    ("$V webhooks listen --forward-to http://192.168.0.1/", 2, "to this machine only"),
    ("$V webhooks trigger upload.lost", 2, "upload.stored"),
    ("$W aply tenants.toml", 2, "apply"),
    ("$W apply unknown-field.toml", 1, "prefix"),
    ("$W apply tenants.toml < /dev/null", 1, "--replace-all"),
    ("$W audit list --since someday", 2, "--since"),
    ("$W quota set nobody grants hour 5", 1, "nobody"),
    ("$W workers issue@nosuch", 1, "issue@nosuch"),
    ("$W dev --tenants missing.toml", 2, "missing.toml"),
    ("$W dev --data $DATA", 1, "in use"),
    ("VALETKEY_DATABASE_URL=postgresql+psycopg://u:hidden@127.0.0.1:1/d $W migrate", 1, "refused"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("wrong_uses")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("command", "exit_code", "message"), WRONG_USES)
def test_a_wrong_use_is_told_what_is_wrong(
    service: Service,
    folder: Path,
    command: str,
    exit_code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {
        "HOME": str(folder),
        "VALETKEY_DATA_DIR": str(service.data),
        "VALETKEY_DATABASE_URL": service.stack.info.database_url,
    }
    command = command.replace("$DATA", str(service.data))
    monkeypatch.chdir(folder)
    code, output = (run_shell if set("<>") & set(command) else run)(command, environ)
    assert code == exit_code, output
    assert message in output
    assert "Traceback" not in output
    assert "hidden" not in output


def run(command: str, environ: dict[str, str]) -> tuple[int, str]:
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environ[name] = value
    program = {"$V": valetkey, "$W": worker}[words.pop(0)]
    result = CliRunner().invoke(program, words, env=environ)
    assert isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.output


def run_shell(command: str, environ: dict[str, str]) -> tuple[int, str]:
    programs = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "V": f"{Path(sys.executable).parent}/valetkey",
        "W": f"{sys.executable} -m worker",
    }
    shell, environ = ["/bin/sh", "-c", command], environ | programs
    completed = run_program(shell, env=environ, stdin=subprocess.DEVNULL)
    return completed.returncode, completed.stdout + completed.stderr
