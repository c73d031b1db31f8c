"""Configuration of the client, from arguments, the environment, or a running `worker dev`.

The key is the first of:

1. the option "key" of `load_config`: its content (str) or the path of its file (Path)
2. VALETKEY_KEY, its content
3. VALETKEY_KEY_FILE, the path of its file
4. the file that `valetkey init` writes, ~/.config/valetkey/key.json (with XDG_CONFIG_HOME in place
   of ~/.config). It is ignored if another tenant is configured, or with a running `worker dev` that
   does not accept it.

With a key, the tenant is that of the key.
"""

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
from valetkey.crypto.keys import PrivateKey, signing_public_key
from valetkey.dev_files import find_dev_file
from valetkey.errors import NotConfigured
from valetkey.redis_urls import REDIS_SCHEMES, default_result_url, verify_by_default

_MAX_REQUESTER_LENGTH = 200  # characters: the limit of terms.Text
_SETTINGS = ("broker_url", "result_url", "tenant", "requested_by")


@dataclass(frozen=True)
class Config:
    """The settings of a client. The URLs may contain passwords, so repr leaves them out.

    broker_source and result_source say where the URLs come from, like `from
    VALETKEY_BROKER_URL`; result_source is empty if the URL was derived from the broker's.
    """

    broker_url: str = field(repr=False)
    result_url: str = field(repr=False)
    tenant: str
    requested_by: str
    key: PrivateKey | None = None
    broker_source: str = field(default="", compare=False)
    result_source: str = field(default="", compare=False)


def load_config(
    options: Mapping[str, str | Path | None],
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Config:
    """Load the settings of a client.

    Each setting comes from options, otherwise from its VALETKEY_* variable. If no broker is
    configured, the remaining settings come from the dev.json of a running `worker dev`: in the
    folder VALETKEY_DATA_DIR, or in the nearest `.valetkey` at or above folder (the working
    directory by default).

    The module's description has the order of keys. Raises NotConfigured with the setting that is
    missing or invalid.
    """
    settings: dict[str, Any] = {
        name: options.get(name) or environ.get(_variable(name)) for name in _SETTINGS
    }
    key, tenant = keyfiles.load_configured_key(options.get("key"), environ), settings["tenant"]
    sources = {name: _source(name, options) for name, value in settings.items() if value}
    dev: dict[str, Any] | None = None
    if not settings["broker_url"]:
        dev = _load_dev_file(environ, folder or Path.cwd())
        settings = dev | {name: value for name, value in settings.items() if value}
        dev_source = f"from the `python -m worker dev` of {dev['folder']}"
        sources = dict.fromkeys(dev, dev_source) | sources
    key = key or _load_default_key(environ, tenant, dev)
    broker_url = _required_url(settings, "broker_url", sources)
    settings["result_url"] = settings.get("result_url") or default_result_url(broker_url)
    return Config(
        broker_url=broker_url,
        result_url=_redis_result_url(settings, sources),
        tenant=_required(settings, "tenant") if key is None else _tenant_of_key(key, tenant),
        requested_by=settings.get("requested_by") or _default_requester(),
        key=key,
        broker_source=sources["broker_url"],
        result_source=sources.get("result_url", ""),
    )


def _source(setting: str, options: Mapping[str, str | Path | None]) -> str:
    if options.get(setting):
        return f"from the argument {setting}"
    return f"from {_variable(setting)}"


def _variable(setting: str) -> str:
    return f"VALETKEY_{setting.upper()}"


def _load_dev_file(environ: Mapping[str, str], folder: Path) -> dict[str, Any]:
    path = find_dev_file(environ, folder)
    if path is None:
        raise NotConfigured(
            "no broker is configured: set VALETKEY_BROKER_URL, and VALETKEY_KEY_FILE or "
            "VALETKEY_TENANT (`valetkey init` creates a key that needs no variable), or start "
            "everything on this machine with `python -m worker dev`"
        )
    try:
        dev = {str(k): v for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        raise NotConfigured(
            f"{path} is not what `python -m worker dev` writes: start that command again, or set "
            f"VALETKEY_BROKER_URL"
        ) from None
    return dev | {"folder": path.parent}


def _load_default_key(
    environ: Mapping[str, str], tenant: str | None, dev: Mapping[str, Any] | None
) -> PrivateKey | None:
    path = keyfiles.default_key_path(environ)
    try:
        is_missing = path is None or not path.is_file()
    except PermissionError:  # the home of another account, as after sudo
        is_missing = True
    if path is None or is_missing:
        return None
    key = keyfiles.read_key_file(path)
    accepted = {} if dev is None else dev.get("public_keys") or {}
    # This key may be for production: a request that is signed with it would be refused by dev.
    is_unknown_to_dev = dev is not None and accepted.get(key.id) != signing_public_key(key)
    return None if is_unknown_to_dev or tenant not in {None, "", key.tenant} else key


def _required(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    if not isinstance(value, str) or not value:
        key = "VALETKEY_KEY_FILE, or for a tenant without a key " if name == "tenant" else ""
        raise NotConfigured(f"no {name} is configured: set {key}{_variable(name)}")
    return value


def _required_url(settings: Mapping[str, Any], name: str, sources: Mapping[str, str]) -> str:
    url = _required(settings, name)
    subject = f"the {name} {sources.get(name, '')}"
    try:
        scheme = urlsplit(url).scheme
        is_valid = scheme == "sentinel" or (bool(scheme) and urlsplit(url).port != 0)
    except ValueError:  # do not chain it: its text may contain a part of the password
        is_valid = False
    if not is_valid:
        raise NotConfigured(
            f"{subject} is not a URL like redis://HOST:6379/0; percent-encode special characters "
            f"in its password"
        )
    try:
        return verify_by_default(url)
    except ValueError as error:
        raise NotConfigured(f"{subject} is not usable: {error}") from None


def _redis_result_url(settings: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    url = _required_url(settings, "result_url", sources)
    if urlsplit(url).scheme not in REDIS_SCHEMES:
        raise NotConfigured(
            f"results can only be read from redis://, rediss:// or sentinel://, not "
            f"{urlsplit(url).scheme}:// ({sources['result_url']}): set {_variable('result_url')}"
        )
    return url


def _tenant_of_key(key: PrivateKey, tenant: str | None) -> str:
    if tenant and tenant != key.tenant:
        raise NotConfigured(
            f"the key {key.id!r} belongs to the tenant {key.tenant!r}, not to {tenant!r}: use a "
            f"key of {tenant!r}, or leave out the tenant"
        )
    return key.tenant


def _default_requester() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container, the user id may have no name
        user = "unknown"
    return f"{user}/{Path(sys.argv[0]).name or 'python'}"[:_MAX_REQUESTER_LENGTH]
