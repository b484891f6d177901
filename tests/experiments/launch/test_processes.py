import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

STARTS = """
import sys, time
from pathlib import Path
from experiments.launch.processes import Process

if __name__ == "__main__":
    child = Process("import time; time.sleep(600)", [], {})
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_a_process_ends_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "starts.py"
    script.write_text(STARTS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not Path(f"/proc/{child}").exists())
