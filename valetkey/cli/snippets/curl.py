"""Commands for a POSIX shell, with curl 7.76 or later."""

import shlex
from collections.abc import Iterable

from valetkey.cli.snippets import request_parts
from valetkey.wire.messages import Grant, MultipartInfo

# What is in a URL is in it as it is: no globbing, no dot segments resolved.
_CURL = ("curl", "--fail-with-body", "--globoff", "--path-as-is")
_XML = "parts.xml"


def curl(grant: Grant, path: str | None = None) -> str:
    """One line that uses a grant; for a multipart upload two, to complete or to abort it.

    path is the file to send or to write: by default the key's last name, of a part with
    `.part` and its number. What a part's answer is wanted for, its ETag, is printed. parts.xml is
    the list of them (AWS: API_CompleteMultipartUpload.html).
    """
    path = _plain(request_parts.file_name(grant) if path is None else path)
    if grant.multipart is not None:
        return _ending(grant, grant.multipart)
    if grant.fields:
        return _form(grant, path)
    if grant.method == "PUT":
        answer = ["--dump-header", "-"] if grant.part is not None else []
        return _line(["--upload-file", path, *answer, *_headers(grant)], grant.url)
    reading = ["--head"] if grant.method == "HEAD" else ["--output", path]
    return _line([*reading, *_headers(grant)], grant.url)


def _form(grant: Grant, path: str) -> str:
    words = []
    for name, value in grant.fields.items():
        words += ["--form-string", f"{name}={value}"]  # --form would read @, < and ;type=
    line = shlex.join([*_CURL, *words])
    if request_parts.content_type_prefix(grant) is not None:
        own = f"$(file --brief --mime-type -- {shlex.quote(path)})"
        line += f' --form-string "Content-Type={own}"'
    return f"{line} {shlex.join(['--form', f'file=@{_quoted(path)}', '--url', grant.url])}"


def _ending(grant: Grant, begun: MultipartInfo) -> str:
    body = ["--header", "content-type: application/xml", "--data-binary", f"@{_XML}"]
    complete = _line(["--request", "POST", *body], grant.url)
    abort = _line(["--request", "DELETE"], begun.abort_url)
    return f"# Complete it:\n{complete}\n# Or abort it:\n# {abort}"


def _line(words: Iterable[str], url: str) -> str:
    return shlex.join([*_CURL, *words, "--url", url])


def _headers(grant: Grant) -> list[str]:
    # "name:" would have curl leave a header out; "name;" is its way to send an empty one.
    lines = [
        f"{n}: {value}" if value else f"{n};" for n, value in request_parts.headers(grant).items()
    ]
    return [word for line in lines for word in ("--header", line)]


def _plain(path: str) -> str:
    # To curl, "-" and "." are its own standard input.
    return f"./{path}" if path in {"-", "."} else path


def _quoted(path: str) -> str:
    # curl's own quoting, within the shell's: a bare name ends at a comma or semicolon.
    return '"{}"'.format(path.replace("\\", "\\\\").replace('"', '\\"'))
