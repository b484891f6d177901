"""NVIDIA FLARE: its simulator, a process for the server and one for each hospital."""

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.task import Network, Settings, folder, settings


def run(_settings: Settings) -> int:
    """Run the job in a process of its own; return its exit code."""
    return subprocess.run([sys.executable, "-m", __name__], check=False).returncode


def main() -> None:
    """Run the job."""
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe  # type: ignore[import-not-found]
    from nvflare.recipe.sim_env import SimEnv  # type: ignore[import-not-found]

    known = settings()
    recipe = FedAvgRecipe(
        name="peers",
        model=Network(),
        min_clients=known.hospitals,
        num_rounds=known.rounds,
        train_script=str(Path(__file__).with_name("nvflare_client.py")),
        key_metric="",
    )
    simulation = str(folder() / "simulation")
    recipe.execute(SimEnv(num_clients=known.hospitals, workspace_root=simulation))


if __name__ == "__main__":
    main()
