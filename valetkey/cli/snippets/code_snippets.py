"""Grants as a description, a curl command, or JavaScript that uses fetch.

A browser lets a page use fetch on another origin only if the bucket's CORS rules allow it. A page
can read the ETag of a part only if those rules expose it.
"""

import json
import shlex
from base64 import b64decode
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, get_args

from valetkey.cli.terminal_text import escape_unprintable
from valetkey.errors import UnusableGrant
from valetkey.wire.replies import Grant, Method, MultipartInfo

_KNOWN_METHODS = get_args(Method)


def check_method(grant: Grant) -> None:
    """Raise UnusableGrant for a grant of a method that only a later service has."""
    if grant.method not in _KNOWN_METHODS:
        raise UnusableGrant(grant.method)


def headers_to_send(grant: Grant) -> dict[str, str]:
    """Return the grant's headers without content-length, which every HTTP client sends itself."""
    return {name: value for name, value in grant.headers.items() if name != "content-length"}


def content_type_prefix(grant: Grant) -> str | None:
    """Return the required prefix of a form's content type ("image/"), if the client chooses it."""
    for condition in _conditions(grant):
        if condition[:2] == ["starts-with", "$Content-Type"]:
            return str(condition[2])
    return None


def size_limits(grant: Grant) -> tuple[int, int | None]:
    """Return the smallest and the largest size in bytes that storage accepts; None is no limit."""
    if "content-length" in grant.headers:
        size = int(grant.headers["content-length"])
        return size, size
    for condition in _conditions(grant):
        if condition[:1] == ["content-length-range"]:
            return int(condition[1]), int(condition[2])
    return 0, None


def _conditions(grant: Grant) -> list[list[Any]]:
    """Return the conditions of a form's policy that are lists; the others are exact values."""
    if "policy" not in grant.fields:
        return []
    conditions = json.loads(b64decode(grant.fields["policy"])).get("conditions", [])
    return [condition for condition in conditions if isinstance(condition, list)]


def file_name(grant: Grant) -> str:
    """Return a local file name: the last segment of the object key, and `.partN` for a part."""
    name = PurePosixPath(grant.key).name
    name = "file" if name in {"", "${filename}"} else name
    return name if grant.part is None else f"{name}.part{grant.part}"


_FORM_HELP = """Send these as multipart/form-data, then the file as the last field, named `file`,
before {expiry}.
With --curl this is a command, with --html a page, with --js a script."""
_PUT_HELP = """Send the file with exactly these headers before {expiry}.
With --curl this is a command, with --html a page, with --js a script."""
_READ_HELP = """Send exactly these headers before {expiry}.
With --curl this is a command, with --js a script."""


def render_text(grant: Grant) -> str:
    """Return a description of the request that uses a grant, and of its expiry.

    Raises UnusableGrant.
    """
    check_method(grant)
    values = dict(grant.fields or grant.headers)
    type_prefix = content_type_prefix(grant)
    if type_prefix is not None:
        values["Content-Type"] = f"(the file's own, which begins with {type_prefix})"
    width = max((len(name) for name in values), default=0)
    lines = [f"  {name:<{width}}  {value}" for name, value in values.items()]
    limited_by = escape_unprintable(grant.limited_by)
    expiry = f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z} (limited by {limited_by})"
    if grant.fields:
        instructions = _FORM_HELP
    else:
        instructions = _PUT_HELP if grant.method == "PUT" else _READ_HELP
    return "\n".join(
        [f"{grant.method} {grant.url}", *lines, "", instructions.format(expiry=expiry)]
    )


# Send the URL unchanged: do not expand globs, do not resolve dot segments.
_CURL = ("curl", "--fail-with-body", "--globoff", "--path-as-is")
_PARTS_FILE = "parts.xml"
# Storage sends nothing after storing a file, and a reason after refusing one.
_SAY_STORED = " && echo stored"


def render_curl(grant: Grant, path: str | None = None) -> str:
    """Return the curl command that uses a grant; for a multipart upload, two: complete and abort.

    path is the file to send or to write: by default the last name of the key, for a part with
    `.part` and its number. After storing a file, the command prints `stored`; otherwise curl prints
    what storage said. The command for a part prints the response headers, because the part's
    ETag is needed to complete the upload. The file parts.xml is the list of parts
    (AWS: API_CompleteMultipartUpload.html). Raises UnusableGrant.
    """
    check_method(grant)
    path = _prefix_special_name(file_name(grant) if path is None else path)
    if grant.multipart is not None:
        return _multipart_commands(grant, grant.multipart)
    if grant.fields:
        return _form_command(grant, path)
    if grant.method == "PUT":
        words = ["--upload-file", path, *_header_options(grant)]
        if grant.part is not None:
            return _command([*words, "--dump-header", "-"], grant.url)
        return _command(words, grant.url) + _SAY_STORED
    if grant.method == "HEAD":
        return _command(["--head", *_header_options(grant)], grant.url)
    line = _command(["--output", path, *_header_options(grant)], grant.url)
    # With a body, storage's refusal would replace the file.
    return line.replace("--fail-with-body", "--fail", 1)


def _multipart_commands(grant: Grant, multipart: MultipartInfo) -> str:
    body = ["--header", "content-type: application/xml", "--data-binary", f"@{_PARTS_FILE}"]
    complete = _command(["--request", "POST", *body], grant.url)
    abort = _command(["--request", "DELETE"], multipart.abort_url)
    return f"# Complete it:\n{complete}\n# Or abort it:\n# {abort}"


def _form_command(grant: Grant, path: str) -> str:
    words = []
    for name, value in grant.fields.items():
        words += ["--form-string", f"{name}={value}"]  # --form would interpret @, < and ;type=
    line = shlex.join([*_CURL, *words])
    if content_type_prefix(grant) is not None:
        content_type = f"$(file --brief --mime-type -- {shlex.quote(path)})"
        line += f' --form-string "Content-Type={content_type}"'
    file_options = ["--form", f"file=@{_quote_for_curl(path)}", "--url", grant.url]
    return f"{line} {shlex.join(file_options)}{_SAY_STORED}"


def _command(words: Iterable[str], url: str) -> str:
    return shlex.join([*_CURL, *words, "--url", url])


def _header_options(grant: Grant) -> list[str]:
    # curl removes a header given as "name:"; it sends an empty one for "name;".
    lines = [
        f"{name}: {value}" if value else f"{name};"
        for name, value in headers_to_send(grant).items()
    ]
    return [word for line in lines for word in ("--header", line)]


def _prefix_special_name(path: str) -> str:
    # curl reads its standard input for the names "-" and ".".
    return f"./{path}" if path in {"-", "."} else path


def _quote_for_curl(path: str) -> str:
    # curl's own quoting, inside the shell's: an unquoted name ends at a comma or semicolon.
    return '"{}"'.format(path.replace("\\", "\\\\").replace('"', '\\"'))


_DOWNLOAD = """
  const response = await fetch(url, { method, headers });
  if (!response.ok) throw await refusal(response);
  return response;
"""
_POST = """
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  form.append("file", file);
  const response = await fetch(url, { method: "POST", body: form });
  if (!response.ok) throw await refusal(response);
  return response;
"""
_CHECK_TYPE = """
  if (!file.type.startsWith(prefix)) throw new Error("the file is not " + prefix + "*");
  fields.push(["Content-Type", file.type]);"""
# Without a content-type header, fetch sends the type of the file. A slice has no type.
_PUT = """
  if (file.size !== size) throw new Error("this takes a file of exactly " + size + " bytes");
  const response = await fetch(url, { method: "PUT", headers, body: file.slice() });
  if (!response.ok) throw await refusal(response);
  return response;
"""
# Storage may send status 200 before it has completed the upload; only the body confirms it
# (AWS: API_CompleteMultipartUpload.html).
_COMPLETE = """
  const part = (etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag></Part>`;
  const parts = etags.map(part).join("");
  const body = `<CompleteMultipartUpload>${parts}</CompleteMultipartUpload>`;
  const response = await fetch(url, { method: "POST", body });
  const text = await response.clone().text();
  const done = response.ok && text.includes("CompleteMultipartUploadResult");
  if (!done) throw await refusal(response);
"""
_ABORT = """
  const response = await fetch(url, { method: "DELETE" });
  if (!response.ok) throw await refusal(response);
"""
# Only the code: the rest of the body may quote the request and its signature.
_REFUSAL = """
async function refusal(response) {
  const code = /<Code>([A-Za-z0-9.]{1,64})</.exec(await response.text())?.[1] ?? "no reason given";
  return new Error(`storage refused: ${response.status} ${code}`);
}"""
# HTML finds the end of a script and comments inside it. json.dumps escapes non-ASCII already.
_HTML_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def render_javascript(grant: Grant) -> str:
    """Return functions that use a grant and are also safe inside a page's <script>.

    upload(file) takes a File or Blob, download() takes nothing; both return fetch's Response.
    complete(etags) takes the ETags that storage returned for the parts, in order of the parts;
    abort() takes nothing. Raises UnusableGrant.
    """
    check_method(grant)
    return _render_functions(grant) + "\n" + _REFUSAL


def _render_functions(grant: Grant) -> str:
    if grant.multipart is not None:
        complete = _function("complete(etags)", _COMPLETE, url=grant.url)
        return f"{complete}\n\n{_function('abort()', _ABORT, url=grant.multipart.abort_url)}"
    if grant.fields:
        return _form_function(grant, content_type_prefix(grant))
    headers = _pairs(headers_to_send(grant))
    if grant.method == "PUT":
        size = int(grant.headers["content-length"])
        return _function("upload(file)", _PUT, url=grant.url, size=size, headers=headers)
    return _function("download()", _DOWNLOAD, url=grant.url, method=grant.method, headers=headers)


def _form_function(grant: Grant, type_prefix: str | None) -> str:
    constants = {"url": grant.url, "fields": _pairs(grant.fields)}
    if type_prefix is None:
        return _function("upload(file)", _POST, **constants)
    return _function("upload(file)", _CHECK_TYPE + _POST, **constants, prefix=type_prefix)


def _function(signature: str, body: str, **constants: object) -> str:
    lines = [
        f"\n  const {name} = {javascript_literal(value)};" for name, value in constants.items()
    ]
    return f"async function {signature} {{{''.join(lines)}{body}}}"


def javascript_literal(value: object) -> str:
    """Return a JSON value as a JavaScript literal, or JSON, that is safe inside <script>."""
    return json.dumps(value).translate(_HTML_ESCAPES)


def _pairs(values: Mapping[str, str]) -> list[tuple[str, str]]:
    # Pairs, because an object literal would lose the name __proto__.
    return list(values.items())
