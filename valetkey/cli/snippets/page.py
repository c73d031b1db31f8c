"""A web page that uploads one file."""

from html import escape

from valetkey.cli.snippets import request_parts
from valetkey.cli.snippets.javascript import render_javascript
from valetkey.wire.replies import Grant

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<title>Upload {key}</title>
<h1>Upload <code>{key}</code></h1>
<p>This form works until {expires_at}.</p>
{form}
</html>
"""
_FORM = """<form action="{url}" method="post" enctype="multipart/form-data" accept-charset="utf-8">
{fields}
<p><input type="file" name="file" required> <button>Upload</button></p>
</form>"""
_TYPE_FIELD = (
    '<p><label>Content type: <input name="Content-Type" value="{type_prefix}" required></label></p>'
)
_TYPE_SCRIPT = """
<script>
const [file, type] = ["file", "Content-Type"].map((name) => document.forms[0].elements[name]);
file.addEventListener("change", () => {
  type.value = file.files[0]?.type || type.value;
});
</script>"""
_PUT = """<form>
<p><input type="file" required> <button>Upload</button> <output></output></p>
</form>
<script>
{script}
document.forms[0].addEventListener("submit", async (event) => {{
  event.preventDefault();
  const [file, button, status] = event.target.elements;
  button.disabled = true;
  status.value = "Uploading";
  try {{
    await upload(file.files[0]);
    status.value = "Stored";
  }} catch (error) {{
    status.value = error.message;
    button.disabled = false;
  }}
}});
</script>"""


def render_page(grant: Grant) -> str:
    """Return a page that uploads one file: a plain form, or a form with a script for a PUT.

    If the client chooses the content type, the form suggests the type of the selected file. Raises
    ValueError for a grant that does not store a whole object, and UnusableGrant.
    """
    request_parts.check_method(grant)
    if grant.fields:
        form = _render_form(grant)
    elif grant.method == "PUT":
        form = _PUT.format(script=render_javascript(grant))
    else:
        raise ValueError("only an upload or a put has a page")
    expires_at = f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z}"
    return _PAGE.format(key=escape(grant.key), expires_at=expires_at, form=form)


def _render_form(grant: Grant) -> str:
    fields = [
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in grant.fields.items()
    ]
    type_prefix = request_parts.content_type_prefix(grant)
    if type_prefix is not None:
        fields.append(_TYPE_FIELD.format(type_prefix=escape(type_prefix)))
    # Storage requires the file to be the last field.
    form = _FORM.format(url=escape(grant.url), fields="\n".join(fields))
    return form if type_prefix is None else form + _TYPE_SCRIPT
