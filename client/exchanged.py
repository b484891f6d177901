"""What a hospital received and sent in a run, from its own audit log."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from common.message import Identity


class Line(BaseModel):
    """A line of the client's audit log, as far as it is looked at here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event: str
    run: str | None = None
    identity: Identity | None = None
    hello: dict[str, Any] = Field({}, description="as it was sent")
    reply: dict[str, Any] = Field({}, description="as it was sent")
    bytes: int = Field(0, description="of weights; 0 in logs of earlier versions")

    def is_of(self, run: str) -> bool:
        """Return whether it is of a run."""
        identity = self.identity.model_dump() if self.identity else self.reply.get("identity", {})
        return run in (self.run, identity.get("run"))


@dataclass
class Exchanged:
    """What was received and sent.

    Attributes:
        hellos: How often the server's greeting was answered.
        replies: Answers to instructions.
        received: Models that came, and their bytes.
        sent: Models that were handed over, and their bytes.
        examples: Films of the last training.
        hello_fields: Fields of these answers that were ever told, with those within them.
        reply_fields: The same of the replies.
    """

    hellos: int = 0
    replies: int = 0
    received: tuple[int, int] = (0, 0)
    sent: tuple[int, int] = (0, 0)
    examples: int = 0
    hello_fields: dict[str, list[str]] = field(default_factory=dict)
    reply_fields: dict[str, list[str]] = field(default_factory=dict)

    def note(self, line: Line) -> None:
        """Count a line."""
        match line.event:
            case "hello":
                self.hellos += 1
                _add_fields(self.hello_fields, line.hello)
            case "answered":
                self.replies += 1
                self.examples = line.reply.get("examples") or self.examples
                _add_fields(self.reply_fields, line.reply)
            case "received":
                self.received = self.received[0] + 1, self.received[1] + line.bytes
            case "sent":
                self.sent = self.sent[0] + 1, self.sent[1] + line.bytes


def exchanged(audit: Path, run: str) -> Exchanged:
    """Return what was exchanged in a run.

    Args:
        audit: The client's audit log.
        run: The run's name.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is damaged.
    """
    found, name = Exchanged(), run.encode()
    with audit.open("rb") as file:
        for text in file:
            if name in text and (line := Line.model_validate_json(text)).is_of(run):
                found.note(line)
    return found


def _add_fields(known: dict[str, list[str]], message: dict[str, Any]) -> None:
    """Add the fields of a message that say something, and the fields within these."""
    for name, value in message.items():
        if value in (None, "", {}):
            continue
        within = known.setdefault(name, [])
        if isinstance(value, dict):
            within += [inner for inner in value if inner not in within]
