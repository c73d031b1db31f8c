"""Functions for a browser or Node, which use fetch.

A browser lets a page ask another origin only as the bucket's CORS rules say; a part's ETag is seen
only where they expose it.
"""

import json
from collections.abc import Mapping

from valetkey.cli.snippets import request_parts
from valetkey.wire.messages import Grant

_DOWNLOAD = """
  const response = await fetch(url, { method, headers });
  if (!response.ok) throw new Error("storage refused: " + response.status);
  return response;
"""
_POST = """
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  form.append("file", file);
  const response = await fetch(url, { method: "POST", body: form });
  if (!response.ok) throw new Error("storage refused: " + response.status);
  return response;
"""
_TYPED = """
  if (!file.type.startsWith(family)) throw new Error("the file is not " + family + "*");
  fields.push(["Content-Type", file.type]);"""
# fetch would send a file's own type where no other is given, and a slice has none.
_PUT = """
  if (file.size !== size) throw new Error("this takes a file of exactly " + size + " bytes");
  const response = await fetch(url, { method: "PUT", headers, body: file.slice() });
  if (!response.ok) throw new Error("storage refused: " + response.status);
  return response;
"""
# Storage may say 200 before it knows; only the result says that it is done
# (AWS: API_CompleteMultipartUpload.html).
_COMPLETE = """
  const part = (etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag></Part>`;
  const parts = etags.map(part).join("");
  const body = `<CompleteMultipartUpload>${parts}</CompleteMultipartUpload>`;
  const response = await fetch(url, { method: "POST", body });
  const done = response.ok && (await response.text()).includes("CompleteMultipartUploadResult");
  if (!done) throw new Error("storage refused: " + response.status);
"""
_ABORT = """
  const response = await fetch(url, { method: "DELETE" });
  if (!response.ok) throw new Error("storage refused: " + response.status);
"""
# Within <script>, HTML would see an end or a comment; json writes the rest as ASCII already.
_IN_HTML = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def javascript(grant: Grant) -> str:
    """Functions that use a grant, safe within a page's <script> as well.

    upload(file) takes a File or Blob, download() nothing; both return fetch's Response.
    complete(etags) takes what storage answered to the parts, in their order; abort() nothing.
    """
    if grant.multipart is not None:
        complete = _function("complete(etags)", _COMPLETE, url=grant.url)
        return f"{complete}\n\n{_function('abort()', _ABORT, url=grant.multipart.abort_url)}"
    if grant.fields:
        return _form(grant, request_parts.content_type_prefix(grant))
    headers = _pairs(request_parts.headers(grant))
    if grant.method == "PUT":
        size = int(grant.headers["content-length"])
        return _function("upload(file)", _PUT, url=grant.url, size=size, headers=headers)
    named = {"url": grant.url, "method": grant.method, "headers": headers}
    return _function("download()", _DOWNLOAD, **named)


def _form(grant: Grant, family: str | None) -> str:
    named = {"url": grant.url, "fields": _pairs(grant.fields)}
    if family is None:
        return _function("upload(file)", _POST, **named)
    return _function("upload(file)", _TYPED + _POST, **named, family=family)


def _function(head: str, body: str, **constants: object) -> str:
    lines = [f"\n  const {name} = {_literal(value)};" for name, value in constants.items()]
    return f"async function {head} {{{''.join(lines)}{body}}}"


def _literal(value: object) -> str:
    """Write a JSON value as JavaScript that is safe within <script>."""
    return json.dumps(value).translate(_IN_HTML)


def _pairs(named: Mapping[str, str]) -> list[tuple[str, str]]:
    # As a name in an object's literal, __proto__ would be lost.
    return list(named.items())
