import pytest

from worker.core.tree.checkpoint_text import CheckpointText, tenant_of, tree_origin
from worker.core.tree.signed_note import InvalidNote

# The example of c2sp.org/tlog-checkpoint.
TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_the_example_of_the_specification_is_read_and_written() -> None:
    checkpoint = CheckpointText.parse(TEXT)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e")
    assert str(checkpoint) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        TEXT.removesuffix("\n"),
        TEXT + "\n",
        TEXT + "an extension\n",
        TEXT.replace("20852163", ""),
        TEXT.replace("20852163", "020852163"),
        TEXT.replace("20852163", "-1"),
        TEXT.replace("20852163", "1e3"),
        TEXT.replace("20852163", "\u0661"),
        TEXT.replace("20852163", str(2**63)),
        TEXT.replace("20852163", "9" * 5_000),
        TEXT.replace("q2I=", "q2J="),
        TEXT.replace("CsUY", ""),
        TEXT.replace("CsUY", "\u00e4sUY"),
        TEXT.replace("example.com/behind-the-sofa", ""),
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidNote):
        CheckpointText.parse(text)


def test_an_origin_names_the_tenant_below_the_key() -> None:
    origin = tree_origin("audit.example.com/valetkey", "acme~2")
    assert origin == "audit.example.com/valetkey/acme~2"
    assert tenant_of(origin, "audit.example.com/valetkey") == "acme~2"


@pytest.mark.parametrize("key_name", ["audit.example.com/valetke", "acme", ""])
def test_the_origin_of_another_key_names_no_tenant(key_name: str) -> None:
    assert tenant_of("audit.example.com/valetkey/acme", key_name) is None


def test_the_name_of_the_key_alone_names_no_tenant() -> None:
    assert tenant_of("audit.example.com/valetkey/", "audit.example.com/valetkey") is None
