"""JavaScript functions for a browser or Node that use fetch.

A browser lets a page use fetch on another origin only if the bucket's CORS rules allow it. A page
can read the ETag of a part only if those rules expose it.
"""

import json
from collections.abc import Mapping

from valetkey.cli.snippets import request_parts
from valetkey.wire.replies import Grant

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
    request_parts.check_method(grant)
    return _render_functions(grant) + "\n" + _REFUSAL


def _render_functions(grant: Grant) -> str:
    if grant.multipart is not None:
        complete = _function("complete(etags)", _COMPLETE, url=grant.url)
        return f"{complete}\n\n{_function('abort()', _ABORT, url=grant.multipart.abort_url)}"
    if grant.fields:
        return _form_function(grant, request_parts.content_type_prefix(grant))
    headers = _pairs(request_parts.headers(grant))
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
    lines = [f"\n  const {name} = {literal(value)};" for name, value in constants.items()]
    return f"async function {signature} {{{''.join(lines)}{body}}}"


def literal(value: object) -> str:
    """Return a JSON value as a JavaScript literal, or JSON, that is safe inside <script>."""
    return json.dumps(value).translate(_HTML_ESCAPES)


def _pairs(values: Mapping[str, str]) -> list[tuple[str, str]]:
    # Pairs, because an object literal would lose the name __proto__.
    return list(values.items())
