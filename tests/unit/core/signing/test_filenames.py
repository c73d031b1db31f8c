import pytest

from worker.core.signing.filenames import MAX_FILENAME_BYTES, find_filename_fault


@pytest.mark.parametrize(
    "name",
    [
        "report.pdf",
        "-rf.pdf",
        "100%",
        "50%25 off; a=b, c'd.txt",
        "Übergrößenträger.pdf",
        "re\u0301sume\u0301.txt",
        "دفتر الحسابات.pdf",
        "रिपोर्ट.pdf",
        "क्\u200dष.pdf",  # a joiner after a mark
        "می\u200cشود.pdf",
        "四半期報告書\uff08最終\uff09.xlsx",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467.png",
        "\u2764\ufe0f\u200d\U0001f525.png",  # a joiner after a variation selector
        "invoice.exe\uff02.pdf",
        "\u2026und dann.pdf",
        "\U0001fae9.pdf",  # of a Unicode version after that of Python 3.11
        "a\ue000.pdf",
        "CONtract.pdf",
        "com10.txt",
        "a..b.pdf",
        "漢" * (MAX_FILENAME_BYTES // 3),
    ],
)
def test_a_name_in_any_script_has_no_fault(name: str) -> None:
    assert find_filename_fault(name) is None


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "not empty"),
        ("x" * (MAX_FILENAME_BYTES + 1), "236 bytes"),
        ("漢" * (MAX_FILENAME_BYTES // 3 + 1), "236 bytes"),
        *((f"a{character}b.pdf", "characters /") for character in '/\\":*?<>|'),
        ("a\r\nb", "control"),
        ("a\0.pdf", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("gpj.\u202eexe", "control"),
        ("a\u200bb", "control"),
        ("a\u200db.pdf", "control"),  # no joiner between Latin letters
        ("क\u200c", "control"),
        ("\u200cक", "control"),
        ("क\u200c\u200cक", "control"),
        ("\U0001f3f4\U000e0067\U000e007f", "control"),  # tags can hide any text
        ("\ud800", "control"),
        ("a\ufffe", "control"),
        ("a\ufdd0", "control"),
        (" a", "begins"),
        ("a\u3000", "begins"),
        (".", "begins"),
        (".htaccess", "begins"),
        ("~a", "begins"),
        ("invoice.exe.", "begins"),
        ("nul", "device"),
        ("Com1 .tar.gz", "device"),
        ("lpt\u00b9.pdf", "device"),
        ("\uff23\uff2f\uff2e.pdf", "device"),
        ("CONIN$", "device"),
        ("\uff0e\uff0e\uff0f.ssh", "path"),
        ("\u2025\u2215\u2025\u2215a", "path"),
        ("a\u2044\u2024\u2024\u29f8b", "path"),
        ("a\uff3c\uff0e\uff0e\uff3cb", "path"),
        ("%2Ebashrc", "percent"),
        ("a%252Fb", "percent"),
        ("fdp%E2%80%AEexe", "percent"),
        ("a%ff", "percent"),
    ],
)
def test_a_faulty_name_is_told_by_the_rule_that_it_breaks(name: str, rule: str) -> None:
    assert rule in (find_filename_fault(name) or "")
