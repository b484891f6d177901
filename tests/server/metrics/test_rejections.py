import ast
from pathlib import Path

import pytest

from server.metrics.rejections import CLASSES, OTHER, class_of

ROOT = Path(__file__).parents[3]
REJECT = ("Rejected", "WireError", "Improper", "BadKeys")
BARS = {
    "server/members/admission.py": ("standing", "stranger"),
    "server/members/sites.py": ("refusal",),
    "server/run/exclusions.py": ("refusal",),
}


def sentence(node: ast.expr | None) -> str | None:
    """Return a text that is written down, with a word for each part that is not."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            words = [str(p.value) if isinstance(p, ast.Constant) else "NAME" for p in parts]
            return "".join(words)
    return None


def sentences_of_rejections() -> set[str]:
    """Return what the code says where it rejects a reply."""
    found = set()
    rooms = (ROOT / "server" / room for room in ("rounds", "secure"))
    files = [file for room in rooms for file in room.glob("*.py")]
    for file in [ROOT / "common/wire.py", *(ROOT / "common/codec").glob("*.py"), *files]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in REJECT and (text := sentence(node.args[0])):
                    found.add(text)
            elif isinstance(node, ast.FunctionDef) and node.name in ("flaw_of", "unusual"):
                found |= texts_in(node)
    return found


def texts_in(function: ast.FunctionDef) -> set[str]:
    values = [n.value for n in ast.walk(function) if isinstance(n, ast.Return | ast.Assign)]
    return {text for value in values if (text := sentence(value)) and " " in text}


def sentences_of_bars() -> set[str]:
    found = set[str]()
    for name, functions in BARS.items():
        defined = {
            node.name: node
            for node in ast.walk(ast.parse((ROOT / name).read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        for function in functions:
            texts = texts_in(defined[function])
            assert texts, function
            found |= texts
    return found


def test_every_sentence_that_the_code_has_belongs_to_a_class() -> None:
    found = sentences_of_rejections()
    found.remove("NAME NAME")  # of divergence; see below
    assert len(found) > 12
    assert not {text for text in found if class_of(text) == OTHER}


def test_hospitals_that_are_barred_are_told_apart_from_bad_replies() -> None:
    found = sentences_of_bars()
    assert len(found) > 5, found
    assert {class_of(text) for text in found} == {"barred"}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("the training diverged at learning rate 0.1", "diverged"),
        ("failed at the hospital (RuntimeError)", "failed"),
        ("tensor norm5.bias is not finite", "weights"),
        ("it shared another secret than it announced", "secure"),
        ("3 hospitals could not use the keys or shares that it sent", "secure"),
        ("something that nobody has thought of", OTHER),
    ],
)
def test_a_reason_is_one_of_a_few(reason: str, expected: str) -> None:
    assert class_of(reason) == expected
    assert expected in (*CLASSES, OTHER)
