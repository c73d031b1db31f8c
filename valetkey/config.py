"""Whom to ask, and for whom: from arguments, the environment, or a running `worker dev`."""

import getpass
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from valetkey.crypto import keyfiles
from valetkey.crypto.keys import PrivateKey
from valetkey.errors import NotConfigured

_REDIS = ("redis", "rediss")
_LONGEST_NAME = 200  # characters: messages.Text
_SETTINGS = ("broker_url", "result_url", "tenant", "requested_by")


@dataclass(frozen=True)
class Config:
    """What a client must know; the URLs may carry passwords."""

    broker_url: str = field(repr=False)
    result_url: str = field(repr=False)
    tenant: str
    requested_by: str
    key: PrivateKey | None = None


def load(
    given: Mapping[str, str | Path | None],
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Config:
    """Find the settings: those given, else VALETKEY_* variables, else the nearest dev.json.

    A key is given as its content or as the path of its file, and stands in VALETKEY_KEY or in the
    file that VALETKEY_KEY_FILE names; its tenant is the tenant. dev.json is only read where no
    broker is named. Raises NotConfigured, saying what to set.
    """
    named: dict[str, Any] = {
        name: given.get(name) or environ.get(_variable(name)) for name in _SETTINGS
    }
    key, tenant = keyfiles.find_key(given.get("key"), environ), named["tenant"]
    if not named["broker_url"]:
        dev = _dev(environ, folder or Path.cwd())
        if key is None and tenant in {None, "", dev.get("tenant")}:  # the key of its own tenant
            key = _key_of_dev(dev)
        named = dev | {name: value for name, value in named.items() if value}
    broker_url = _url(named, "broker_url")
    named["result_url"] = named.get("result_url") or results_beside(broker_url)
    return Config(
        broker_url=broker_url,
        result_url=_result_url(named),
        tenant=_needed(named, "tenant") if key is None else _of_key(key, tenant),
        requested_by=named.get("requested_by") or _this_program(),
        key=key,
    )


def results_beside(broker_url: str) -> str | None:
    """Where the service keeps answers unless it is told otherwise: database 1 of that server.

    None where that is no Redis.
    """
    parts = urlsplit(broker_url)
    return parts._replace(path="/1").geturl() if parts.scheme in _REDIS else None


def without_secrets(url: str) -> str:
    """A broker's URL as it may be shown: no user, password or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _variable(name: str) -> str:
    return f"VALETKEY_{name.upper()}"


def _key_of_dev(dev: Mapping[str, Any]) -> PrivateKey | None:
    path = dev.get("key_file")
    return keyfiles.read_key_file(path) if isinstance(path, Path) else None


def _of_key(key: PrivateKey, tenant: str | None) -> str:
    if tenant and tenant != key.tenant:
        raise NotConfigured(
            f"the key {key.id!r} speaks for {key.tenant!r}, not for {tenant!r}: "
            f"give the key of that tenant, or no tenant"
        )
    return key.tenant


def _dev(environ: Mapping[str, str], folder: Path) -> dict[str, Any]:
    data = environ.get("VALETKEY_DATA_DIR")
    folders = [Path(data)] if data else [f / ".valetkey" for f in (folder, *folder.parents)]
    found = next((f / "dev.json" for f in folders if _is_ours(f / "dev.json")), None)
    if found is None:
        raise NotConfigured(
            "no broker is configured: set VALETKEY_BROKER_URL and VALETKEY_TENANT, or start "
            "everything on this machine with `python -m worker dev`"
        )
    try:
        dev = {str(k): v for k, v in json.loads(found.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        raise NotConfigured(f"{found} is not what `python -m worker dev` writes") from None
    path = dev.get("key_file")  # from its own folder, where it is relative
    return dev | {"key_file": found.parent / path} if isinstance(path, str) else dev


def _is_ours(path: Path) -> bool:
    # Where others can write too, theirs would lead us to their broker. Windows has no such ids.
    return path.is_file() and (not hasattr(os, "getuid") or path.stat().st_uid == os.getuid())


def _needed(named: Mapping[str, Any], name: str) -> str:
    value = named.get(name)
    if not isinstance(value, str) or not value:
        raise NotConfigured(f"no {name} is configured: set {_variable(name)}")
    return value


def _url(named: Mapping[str, Any], name: str) -> str:
    url = _needed(named, name)
    try:
        usable = bool(urlsplit(url).scheme) and urlsplit(url).port != 0
    except ValueError:  # its text may repeat a part of the password
        usable = False
    if not usable:
        raise NotConfigured(
            f"{_variable(name)} is not a URL; percent-encode what is special in its password"
        )
    return url


def _result_url(named: Mapping[str, Any]) -> str:
    url = _url(named, "result_url")
    if urlsplit(url).scheme not in _REDIS:
        raise NotConfigured(
            f"answers are read from redis:// or rediss://, not {urlsplit(url).scheme}://: "
            f"set {_variable('result_url')}"
        )
    return url


def _this_program() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id need not have a name
        user = "unknown"
    return f"{user}/{Path(sys.argv[0]).name or 'python'}"[:_LONGEST_NAME]
