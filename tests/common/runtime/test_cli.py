import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from common.message import VERSION
from experiments.launch.processes import Process
from tests.support.commands import assert_one_line, run

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = sys.modules["flwr"] = None
sys.argv = sys.argv[1:]
from {module} import main
main()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_the_exit_code_is_the_same_where_the_last_line_cannot_be_written() -> None:
    full = Path("/dev/full")
    process = Process("from server.cli import main; main()", ["--rounds", "0"], {}, (full, full))
    assert process.wait(60) == 2


@pytest.mark.parametrize(
    ("module", "arguments", "code", "expected"),
    [
        ("server.cli", ["--help"], 0, "--min-clients"),
        ("client.cli", ["--help"], 0, "--slots-dir"),
        ("common.audit_cli", ["verify", "--help"], 0, "--head"),
        ("experiments.compose.containers", ["chaos", "--help"], 0, "--seconds"),
        ("server.report.cli", ["--help"], 0, "--figures"),
        ("server.evaluate.cli", ["--help"], 0, "--min-clients"),
        ("server.evaluate.cli", ["m.pt", "--out", "x.txt"], 2, "must end with .csv or .json"),
        ("server.watch.cli", ["--help"], 0, "--findings"),
        ("server.watch.cli", [], 2, "RUN, the run's folder, or --server HOST:PORT"),
        ("radiographs.cli", ["--help"], 0, "chestxray14"),
        ("radiographs.cli", ["synthetic", "--help"], 0, "--hospitals"),
        ("radiographs.cli", ["chestxray14", "--help"], 0, "--allow-missing"),
        ("radiographs.cli", ["chexpert", "--help"], 0, "--uncertain"),
        ("radiographs.cli", ["mimic", "--help"], 0, "--labels"),
        ("radiographs.cli", ["join", "--help"], 0, "SHARDS"),
        ("radiographs.cli", ["show", "--help"], 0, "--out"),
        ("server.provision.cli", ["new", "--help"], 0, "--server"),
        ("pretrain.cli", ["--help"], 0, "--preset"),
        ("pretrain.cli", ["--method", "magic"], 2, "--method (or FLOWER_PRETRAIN_METHOD)"),
        (
            "pretrain.cli",
            ["--data", "x", "--out", "c.pt", "--method", "mocov2", "--queue", "1000"],
            2,
            "not a multiple of the batch",
        ),
        ("server.cli", ["--rounds", "0"], 2, "--rounds (or FLOWER_SERVER_ROUNDS)"),
        ("client.cli", ["--no-such-option"], 2, "no-such-option"),
    ],
)
def test_help_and_errors_in_arguments_never_import_torch(
    module: str, arguments: list[str], code: int, expected: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(module=module), "command", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == code, result.stderr
    assert expected in result.stdout + result.stderr


SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_every_command_tells_its_version_and_that_of_the_protocol(command: str) -> None:
    module = SCRIPTS[command].removesuffix(":main")
    code = WITHOUT_TORCH.format(module=module)
    result = subprocess.run(
        [sys.executable, "-c", code, command, "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    expected = f"{command} {version('fedcxr')}, protocol {VERSION}\n"
    assert (result.returncode, result.stdout) == (0, expected), result.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "fragments"),
    [
        ("flower-server", ["--no-such-option", "1"], ["no-such-option", "--help"]),
        ("flower-server", [], ["--init (or FLOWER_SERVER_INIT) is required"]),
        ("flower-server", ["--init", "random", "--run", "x"], ["--tls DIR or --insecure"]),
        ("flower-server", ["--init", "random", "--run", "x", "--lr", "-1"], ["--lr", "-1"]),
        ("flower-server", ["--init", "random", "--run", "x", "--lr", "inf"], ["--lr", "inf"]),
        ("flower-server", ["--round-timeout", "1e10"], ["--round-timeout", "1e10"]),
        ("flower-client", ["--server", "here"], ["--server", "HOST:PORT", "here"]),
        ("flower-client", ["--server", "http://h:1"], ["--server", "HOST:PORT", "http://h:1"]),
        ("flower-client", ["--server", "a..b:1"], ["--server", "not a host's name", "a..b:1"]),
        ("flower-client", ["--server", "h:1", "--data", "x", "--name", "a b"], ["--name"]),
        (
            "flower-client",
            ["--server", "h:1", "--data", "my shard", "--insecure"],
            ["--data", "'my shard'", "give --name"],
        ),
        ("flower-containers", ["chaos", "x", "kil"], ["FAULT: input should be 'kill'", "'kil'"]),
        ("flower-data", ["show", "s" * 300], ["sss", "File name too long"]),
        ("flower-data", ["paint"], ["'paint' is not a command", "synthetic"]),
        ("flower-data", ["synthetic", "--size", "8"], ["--size", "40"]),
        ("flower-data", ["synthetic", "--ouch", "8"], ["ouch"]),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line_and_code_2(
    command: str, arguments: list[str], fragments: list[str]
) -> None:
    assert_one_line(run(command, *arguments), 2, *fragments)


def test_options_come_from_the_environment_too(tmp_path: Path) -> None:
    environment = {
        "FLOWER_DATA_OUT": str(tmp_path / "data"),
        "FLOWER_DATA_HOSPITALS": "2",
        "FLOWER_DATA_IMAGES": "16",
    }
    result = run("flower-data", "synthetic", "--size", "40", environment=environment)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "hospital-00",
        "hospital-01",
        "pretrain",
        "test",
    }
    bad = run("flower-data", "synthetic", environment={**environment, "FLOWER_DATA_IMAGES": "few"})
    assert_one_line(bad, 2, "--images (or FLOWER_DATA_IMAGES)", "few")


def test_a_tilde_is_the_home_folder(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "FLOWER_DATA_OUT": "~/data", "FLOWER_DATA_HOSPITALS": "2"}
    result = run(
        "flower-data", "synthetic", "--size", "40", "--images", "16", environment=environment
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "data" / "hospital-01").is_dir()


def test_a_variable_that_is_no_setting_is_named(tmp_path: Path) -> None:
    environment = {"FLOWER_REPORT_OUTT": "x", "FLOWER_REPORT_OUT": str(tmp_path / "page.html")}
    result = run("flower-report", tmp_path, environment=environment)
    assert (
        "warning: FLOWER_REPORT_OUTT is not a setting; did you mean FLOWER_REPORT_OUT?"
        in (result.stderr.splitlines()[0])
    )
    assert "FLOWER_REPORT_OUT is" not in result.stderr
    # What is meant for another command of the same program is no mistake.
    result = run("flower-data", "show", tmp_path, environment={"FLOWER_DATA_IMAGES": "16"})
    assert_one_line(result, 2, "no shard here")


@pytest.mark.parametrize(
    ("option", "environment"), [(["--debug"], {}), ([], {"FLOWER_DATA_DEBUG": "true"})]
)
def test_debug_shows_the_traceback(
    tmp_path: Path, option: list[str], environment: dict[str, str]
) -> None:
    result = run("flower-data", "show", tmp_path, *option, environment=environment)
    assert result.returncode == 2
    assert "Traceback" in result.stderr


def test_help_says_nothing_of_a_default_that_there_is_not() -> None:
    text = run("flower-pretrain", "--help", environment={"COLUMNS": "80"}).stdout
    assert "(default: cxr)" in text
    assert "None" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path: Path) -> None:
    run("flower-data", "synthetic", "--out", tmp_path / "d", "--images", 16, "--size", 40)
    process = subprocess.Popen(
        [sys.executable, "-uc", "from radiographs.cli import main; main()", "show", tmp_path / "d"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode == 141
