"""Which hospitals may not take part in a run any more, until a person lets them in again."""

from pathlib import Path

from common.runtime.files import now, write_json


class Exclusions:
    """One file for each hospital that is excluded; to remove it lets the hospital in again.

    Args:
        path: The folder of these files; made with the first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, reason: str) -> None:
        """Exclude a hospital."""
        self._path.mkdir(exist_ok=True)
        write_json(self._file(name), {"time": now(), "reason": reason})

    def refusal(self, name: str) -> str | None:
        """Return what an excluded hospital is told; None: it is not excluded."""
        file = self._file(name)
        if not file.exists():
            return None
        return (
            f"{name} is excluded from this run after bad replies; the operator lets it in "
            f"again by removing {file.name} from {self._path.name}"
        )

    def remedy(self) -> str:
        """Return a part of an error: who is excluded, and how they are let in; "" for nobody."""
        names = sorted(file.stem for file in self._path.glob("*.json"))
        if not names:
            return ""
        return (
            f"excluded: {', '.join(names)}; once mended, remove their files from {self._path} and "
            "start their clients again; "
        )

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.json"
