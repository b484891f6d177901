"""The private file that links a shard to files and patients. It must never leave the hospital.

``SHARD.private.json`` is next to the shard, not in it, and only its owner may read it (mode 600).
It holds the salt of the patients' pseudonyms and the file of each running number.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import BadInput
from common.runtime.files import remedy, write_whole


class Private(BaseModel):
    """The content of ``SHARD.private.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = Field(1, ge=1, le=1, description="version of this format")
    salt: str = Field(pattern="^[0-9a-f]{64}$", description="secret, 32 bytes in hexadecimal")
    files: dict[str, str] = Field(
        default_factory=dict, description="path below --images, by the image's running number"
    )

    def pseudonym(self, identifier: str) -> str:
        """Return the pseudonym of a patient or a file: 16 hexadecimal digits.

        The pseudonym is an HMAC-SHA256 with the salt. Without the salt it can be neither reversed
        nor tested against known numbers. A file's name need not be UTF-8.
        """
        digest = hmac.new(bytes.fromhex(self.salt), os.fsencode(identifier), hashlib.sha256)
        return digest.hexdigest()[:16]


def private_path(shard: Path) -> Path:
    """Return the path of a shard's private file."""
    shard = shard.resolve()
    return shard.with_name(f"{shard.name}.private.json")


def new_private() -> Private:
    """Return the content of a new private file: a new salt and no files."""
    return Private(salt=secrets.token_hex(32))


def read_private(path: Path) -> Private:
    """Read a private file.

    Raises:
        BadInput: It cannot be read or is not a private file. The message quotes none of it.
    """
    try:
        return Private.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError:
        raise BadInput(
            f"{path}: damaged, or not the private file of a shard; restore it from a backup"
        ) from None


def check_kept(path: Path, salt: str, files: Collection[str] | None = None, hint: str = "") -> None:
    """Refuse to replace the private file of another shard: of another salt, or of films not here.

    A shard may be made again, since options or labels were wrong: of the same files, of which
    others are refused, and of more.

    Args:
        path: The private file that will be written; it need not exist.
        salt: The salt that it will have.
        files: All files that were found for the shard, refused ones too; None: not yet known.
        hint: What else may be done, for the error message.

    Raises:
        BadInput: The present file has another salt, has files that were not found now, or cannot
            be read.
    """
    if not path.exists():
        return
    before = read_private(path)
    other = "has another salt" if before.salt != salt else ""
    if not other and files is not None and not set(before.files.values()) <= set(files):
        other = "lists other films"
    if other:
        raise BadInput(
            f"{path}: is there already and {other}; move it to its shard, or choose another "
            f"--out{hint}"
        )


def write_private(path: Path, private: Private) -> None:
    """Write a private file, readable by its owner alone.

    Raises:
        BadInput: It cannot be written.
    """
    text = private.model_dump_json(indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(text.encode()), mode=0o600)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}; {remedy(error)}") from None
