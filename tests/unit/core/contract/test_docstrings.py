"""Descriptions of fields from docstrings."""

from worker.core.contract.docstrings import describe_class, read_description


def test_the_text_is_split_from_the_descriptions_of_fields() -> None:
    docstring = """A request.

    Some more text
    on two lines.

    first: the first field,
    on two lines.
    second, third: fields that mean the same.

    Text at the end.
    """
    description = read_description(docstring, {"first", "second", "third"})
    assert description.text == "A request.\n\nSome more text on two lines.\n\nText at the end."
    assert description.fields == {
        "first": "The first field, on two lines.",
        "second": "Fields that mean the same.",
        "third": "Fields that mean the same.",
    }


def test_a_line_that_names_no_field_is_text() -> None:
    description = read_description("A link.\n\nnote: no field.\nurl: the link.", {"url"})
    assert description.text == "A link.\n\nnote: no field."
    assert description.fields == {"url": "The link."}


def test_a_description_that_begins_with_a_name_keeps_its_case() -> None:
    fields = read_description("items: chunk_size items.", {"items"}).fields
    assert fields == {"items": "chunk_size items."}


def test_a_field_is_described_by_a_base_class_unless_the_class_describes_it() -> None:
    class Base:
        """A base.

        key: the key.
        size: the size.
        """

    class Child(Base):
        """A child.

        size: the size in bytes.
        """

    description = describe_class(Child, {"key", "size"})
    assert description.text == "A child."
    assert description.fields == {"key": "The key.", "size": "The size in bytes."}
