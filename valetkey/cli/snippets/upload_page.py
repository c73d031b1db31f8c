"""A web page that uploads one file.

page.html, page.css and page.js are its parts. The page loads nothing from elsewhere, and its
Content-Security-Policy allows only these parts and requests to storage.
"""

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import urlsplit

from valetkey.cli.snippets import code_snippets
from valetkey.cli.snippets.code_snippets import javascript_literal
from valetkey.cli.terminal_text import escape_unprintable
from valetkey.units import describe_size, format_utc
from valetkey.wire.replies import Grant

_FORM = Template("""<form $attributes>
$fields
<div class="drop">
<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" \
stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">\
<path d="M12 16V4m0 0L7 9m5-5 5 5M4 15v3a2 2 0 0 0 2 2h12a2 2 0 0 0 2-2v-3"/></svg>
<label for="file"><bdi class="name">Choose a file</bdi></label>
<span class="hint" id="hint">Then press Upload</span>
<input type="file" id="file" name="file" aria-describedby="hint"$accept required>
</div>
<div class="progress" hidden><progress max="1" aria-label="Progress"></progress>
<p class="rate"></p><p class="quiet" role="status"></p></div>
<div class="buttons"><button class="send"$disabled>Upload</button>
<button type="button" class="plain cancel" hidden>Cancel</button></div>
</form>""")
_TYPE_FIELD = Template(
    '<div class="type"><label for="type">Type of the file</label>'
    '<input id="type" name="Content-Type" value="$prefix" pattern="$prefix.+" '
    'title="$prefix and the rest of the type" autocomplete="off" spellcheck="false" required></div>'
)
_WITHOUT_SCRIPT = (
    "<p>Without JavaScript, this page shows no progress. If storage refuses the file, "
    "its answer replaces this page.</p>"
)
_NEEDS_SCRIPT = "<p>This page needs JavaScript: turn it on, and load the page again.</p>"
PAGE_KINDS = frozenset({"upload", "put"})
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?").fullmatch


def render_page(grant: Grant) -> str:
    """Return a page that uploads one file, with its limits, progress and storage's answer in words.

    The page of a form works without JavaScript, too. If the client chooses the content type, the
    page takes the type of the selected file, and asks for one that the browser does not know.
    Raises ValueError for a grant that does not store a whole object, and UnusableGrant.
    """
    code_snippets.check_method(grant)
    if grant.multipart is not None or not (grant.fields or grant.method == "PUT"):
        raise ValueError("only an upload or a put has a page")
    style, script = _read("page.css"), _read("page.js")
    prefix, content_type = code_snippets.content_type_prefix(grant), _content_type(grant)
    return Template(_read("page.html")).substitute(
        policy=escape(_security_policy(grant, style, script)),
        style=style,
        script=script,
        key=escape(escape_unprintable(grant.key)),
        size=escape(_describe_sizes(*code_snippets.size_limits(grant))),
        type=escape(_describe_type(prefix, content_type)),
        expires_iso=format_utc(grant.expires_at),
        expires_at=f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z}",
        form=_render_form(grant, prefix, content_type),
        without_script=_WITHOUT_SCRIPT if grant.fields else _NEEDS_SCRIPT,
        data=_render_data(grant, prefix, content_type),
    )


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _security_policy(grant: Grant, style: str, script: str) -> str:
    storage = _source(grant.url)
    redirect = grant.fields.get("success_action_redirect") or grant.fields.get("redirect")
    # A form's redirect is a target of the form, too.
    targets = f"{storage} {_source(redirect)}" if redirect else storage
    return (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        f"connect-src {storage}; frame-src {storage}; form-action {targets}; base-uri 'none'"
    )


def _source(url: str) -> str:
    """Return the source that matches a URL's host; its scheme if a policy cannot name the host."""
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "https" else "http"
    return f"{scheme}://{parts.netloc}" if _HOST(parts.netloc) else f"{scheme}:"


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _content_type(grant: Grant) -> str | None:
    return grant.fields.get("Content-Type") or grant.headers.get("content-type")


def _describe_sizes(smallest: int, largest: int | None) -> str:
    if largest is None:
        return "Storage decides"
    if smallest == largest:
        return f"Exactly {describe_size(largest)}"
    if smallest > 1:
        return f"{describe_size(smallest)} to {describe_size(largest)}"
    return f"Up to {describe_size(largest)}"


def _describe_type(prefix: str | None, content_type: str | None) -> str:
    if prefix is not None:
        return f"Any {prefix.removesuffix('/')} ({prefix}*)"
    return "Any" if content_type in {None, "application/octet-stream"} else str(content_type)


def _render_form(grant: Grant, prefix: str | None, content_type: str | None) -> str:
    fields = [
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in grant.fields.items()
    ]
    if prefix is not None:
        fields.append(_TYPE_FIELD.substitute(prefix=escape(prefix)))
    attributes = (
        f'action="{escape(grant.url)}" method="post" enctype="multipart/form-data" '
        'accept-charset="utf-8"'
    )
    accepted = f"{prefix}*" if prefix is not None else content_type
    is_any = accepted in {None, "*", "application/octet-stream"}
    # Storage requires the file to be the last field; the buttons have no value.
    return _FORM.substitute(
        attributes=attributes if grant.fields else "",
        fields="\n".join(fields),
        accept="" if is_any else f' accept="{escape(str(accepted))}"',
        disabled="" if grant.fields else " disabled",
    )


def _render_data(grant: Grant, prefix: str | None, content_type: str | None) -> str:
    smallest, largest = code_snippets.size_limits(grant)
    data = {
        "method": grant.method,
        "url": grant.url,
        "headers": list(code_snippets.headers_to_send(grant).items()),
        "expires_at": format_utc(grant.expires_at),
        "min_size": smallest,
        "max_size": largest,
        "type_prefix": prefix,
        "content_type": content_type,
        "redirects": "success_action_redirect" in grant.fields or "redirect" in grant.fields,
    }
    return javascript_literal(data)
