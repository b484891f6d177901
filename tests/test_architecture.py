import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "common", "experiments", "predict", "pretrain", "radiographs", "server")


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def test_imports_run_one_way() -> None:
    allowed = {room: {room, "common"} for room in ROOMS}
    allowed["experiments"] = set(ROOMS)  # whole federations, from data to report
    allowed["predict"] |= {"radiographs"}  # a film is read as for a shard
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            rooms = {name.split(".")[0] for name in imports_of(file)} & set(ROOMS)
            assert rooms <= allowed[room], file


def test_flower_is_imported_by_the_adapters_alone() -> None:
    importers = {
        str(file.relative_to(ROOT))
        for room in ROOMS
        for file in (ROOT / room).rglob("*.py")
        if any(name.split(".")[0] == "flwr" for name in imports_of(file))
    }
    assert importers == {
        "client/transport/connection.py",
        "client/transport/form.py",
        "client/transport/messages.py",
        "server/strategies/flower/legacy.py",
        "server/strategies/flower/records.py",
        "server/strategies/flower/remembered.py",
        "server/transport/connection.py",
        "server/transport/service.py",
        "server/transport/stream.py",
    }


def test_tests_share_through_support_alone() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        tests = {name for name in imports_of(file) if name.startswith("tests.")}
        assert not {name for name in tests if "test_" in name or "conftest" in name}, file
