"""Commands for a POSIX shell, with curl 7.76 or later."""

import shlex
from collections.abc import Iterable

from valetkey.cli.snippets import request_parts
from valetkey.wire.replies import Grant, MultipartInfo

# Send the URL unchanged: do not expand globs, do not resolve dot segments.
_CURL = ("curl", "--fail-with-body", "--globoff", "--path-as-is")
_PARTS_FILE = "parts.xml"


def render_curl(grant: Grant, path: str | None = None) -> str:
    """Return the curl command that uses a grant; for a multipart upload, two: complete and abort.

    path is the file to send or to write: by default the last name of the key, for a part with
    `.part` and its number. The command for a part prints the response headers, because the part's
    ETag is needed to complete the upload. The file parts.xml is the list of parts
    (AWS: API_CompleteMultipartUpload.html). Raises UnusableGrant.
    """
    request_parts.check_method(grant)
    path = _prefix_special_name(request_parts.file_name(grant) if path is None else path)
    if grant.multipart is not None:
        return _multipart_commands(grant, grant.multipart)
    if grant.fields:
        return _form_command(grant, path)
    if grant.method == "PUT":
        print_headers = ["--dump-header", "-"] if grant.part is not None else []
        words = ["--upload-file", path, *print_headers, *_header_options(grant)]
        return _command(words, grant.url)
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
    if request_parts.content_type_prefix(grant) is not None:
        content_type = f"$(file --brief --mime-type -- {shlex.quote(path)})"
        line += f' --form-string "Content-Type={content_type}"'
    file_options = ["--form", f"file=@{_quote_for_curl(path)}", "--url", grant.url]
    return f"{line} {shlex.join(file_options)}"


def _command(words: Iterable[str], url: str) -> str:
    return shlex.join([*_CURL, *words, "--url", url])


def _header_options(grant: Grant) -> list[str]:
    # curl removes a header given as "name:"; it sends an empty one for "name;".
    lines = [
        f"{name}: {value}" if value else f"{name};"
        for name, value in request_parts.headers(grant).items()
    ]
    return [word for line in lines for word in ("--header", line)]


def _prefix_special_name(path: str) -> str:
    # curl reads its standard input for the names "-" and ".".
    return f"./{path}" if path in {"-", "."} else path


def _quote_for_curl(path: str) -> str:
    # curl's own quoting, inside the shell's: an unquoted name ends at a comma or semicolon.
    return '"{}"'.format(path.replace("\\", "\\\\").replace('"', '\\"'))
