"""The commands that the docs tell people to type, and the programs that they show."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def commands_in(page: str, heading: str) -> list[str]:
    """Return the commands in a section's indented blocks, in order, with continued lines joined."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.sub(r" \\\n *", " ", section).splitlines()
    return [line.strip() for line in lines if re.match(r" {4,}(docker|sudo|flower-\w+|-e) ", line)]


def program_in(page: str) -> str:
    """Return the Python program that a page shows."""
    return (DOCS / page).read_text().split("```python\n")[1].split("```")[0]
