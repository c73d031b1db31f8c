"""Pages for a browser that upload one file."""

from html import escape

from valetkey.cli.snippets import request_parts
from valetkey.cli.snippets.javascript import javascript
from valetkey.wire.messages import Grant

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
_TYPE = '<p><label>Content type: <input name="Content-Type" value="{family}" required></label></p>'
_PROPOSE = """
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
  const [file, button, said] = event.target.elements;
  button.disabled = true;
  said.value = "Uploading";
  try {{
    await upload(file.files[0]);
    said.value = "Stored";
  }} catch (error) {{
    said.value = error.message;
    button.disabled = false;
  }}
}});
</script>"""


def page(grant: Grant) -> str:
    """A page that uploads one file: a plain form, or for a PUT one with a script.

    Where the client chooses the content type, the form proposes the file's own. Raises ValueError
    for a grant that stores no whole object.
    """
    if grant.fields:
        form = _form(grant)
    elif grant.method == "PUT":
        form = _PUT.format(script=javascript(grant))
    else:
        raise ValueError("only an upload or a put has a page")
    ends = f"{grant.expires_at:%Y-%m-%d %H:%M:%S %Z}"
    return _PAGE.format(key=escape(grant.key), expires_at=ends, form=form)


def _form(grant: Grant) -> str:
    fields = [
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in grant.fields.items()
    ]
    family = request_parts.content_type_prefix(grant)
    if family is not None:
        fields.append(_TYPE.format(family=escape(family)))
    # Storage wants the file as the last field.
    form = _FORM.format(url=escape(grant.url), fields="\n".join(fields))
    return form if family is None else form + _PROPOSE
