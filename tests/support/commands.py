"""The commands, run as processes."""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.launch.processes import Process


def run(
    command: str, *arguments: object, environment: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run ``flower-server``, ``flower-data`` or another of the commands as a process of its own."""
    module = {
        "flower-audit": "common.audit_cli",
        "flower-containers": "experiments.compose.containers",
        "flower-evaluate": "server.evaluate.cli",
        "flower-export": "predict.export_cli",
        "flower-data": "radiographs.cli",
        "flower-provision": "server.provision.cli",
        "flower-report": "server.report.cli",
        "flower-watch": "server.watch.cli",
    }.get(command, f"{command.removeprefix('flower-')}.cli")
    given = [str(argument) for argument in arguments]
    with TemporaryDirectory() as folder:
        outputs = Path(folder) / "stdout", Path(folder) / "stderr"
        process = Process(f"from {module} import main; main()", given, environment or {}, outputs)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(given, code, stdout, stderr)


def untouched_environment() -> dict[str, str]:
    """Return the environment without what importing Flower's adapters puts into it."""
    return {name: v for name, v in os.environ.items() if not name.startswith(("FLWR_", "GRPC_"))}


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *fragments: str) -> None:
    """Assert an exit code, and that the last line of stderr alone tells the user what is wrong."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if " error: " in line]
    assert len(errors) == 1, result.stderr
    assert errors[0] == result.stderr.splitlines()[-1]
    for fragment in fragments:
        assert fragment in errors[0]
