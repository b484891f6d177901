"""Words and codes of a DICOM header: read in their character set, compared, and quoted.

The standard restricts a Code String to 16 capitals, digits, blanks and underscores (PS3.5 6.2).
Devices also write other languages into it, in the header's character set or in any other.
"""

import re
import shlex
import unicodedata
from typing import NamedTuple

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

ABSENT = ("", "unknown", "unk", "undefined", "unspecified", "none", "null", "na", "n a")
"""Entries that say nothing, as :func:`plain` returns them."""

SNOMED = ("SCT", "SRT", "SNM3", "99SDM")
"""Designators of SNOMED's coding schemes, today's and the older ones: PS3.16 8.1."""

_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")
_CODE_VALUE = re.compile(r"[A-Z0-9_.:-]{1,16}")
_UNDECLARED = ("utf-8", "gb18030", "euc_kr", "shift_jis", "cp1251", "iso8859_7")
_NO_MARKS = str.maketrans(
    {"\N{LATIN SMALL LETTER DOTLESS I}": "i", "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe"}
)


class Code(NamedTuple):
    """An item of a sequence of codes, PS3.3 8.8: the designator of its scheme, value, meaning."""

    scheme: str
    value: str
    meaning: str


def plain(text: str) -> str:
    """Return the letters and digits of a text without accents and case, words apart by a blank."""
    bare = "".join(
        c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c)
    )
    return " ".join(re.findall(r"[^\W_]+", bare.translate(_NO_MARKS)))


def text(header: Dataset, name: str) -> str:
    """Return an element's value in capitals, empty if missing; several values are joined."""
    value = header.get(name)
    values = value if isinstance(value, MultiValue) else [value]
    return "\\".join(str(part or "").strip(" \0") for part in values).upper()


def readings(header: Dataset, name: str) -> list[str]:
    """Return what an element's value may read, first as pydicom reads it.

    A Code String has no character set of its own; pydicom reads its bytes as Latin-1. They are
    also read in the header's character set, and in those in which devices write undeclared.
    """
    value = text(header, name)
    found = [value]
    try:
        # The case is that of Latin-1: take the bytes from the value itself.
        raw = header[name].value if value else ""
        joined = "\\".join(raw) if isinstance(raw, MultiValue) else str(raw)
        stored = joined.encode("latin-1")
    except UnicodeEncodeError:
        return found
    if stored.isascii() and b"\x1b" not in stored:
        return found
    if declared := header.get("SpecificCharacterSet"):
        found.append(decode_bytes(stored, convert_encodings(declared), set(b"\\")))
    for charset in _UNDECLARED:
        try:
            found.append(stored.decode(charset))
        except UnicodeDecodeError:
            continue
    return found


def codes(header: Dataset, name: str) -> list[Code]:
    """Return the items of a sequence of codes; empty if there is none."""
    return [
        Code(
            text(item, "CodingSchemeDesignator"),
            text(item, "CodeValue") or text(item, "LongCodeValue"),
            text(item, "CodeMeaning"),
        )
        for item in header.get(name) or []
    ]


def quoted(code: str, header: Dataset | None = None) -> str:
    """Return a code as a message may quote it: nothing but a code, which names nobody.

    Args:
        code: In capitals.
        header: Where it is from; what is also in the patient's name or number is not quoted.
    """
    if not code:
        return "not given"
    harmless = _CODE_STRING.fullmatch(code) or _CODE_VALUE.fullmatch(code)
    return repr(code) if harmless and not _names(code, header) else "unknown"


def remedy(option: str, word: str, given: str, header: Dataset | None) -> str:
    """Return an option that lets a word be known, such as ``--body-part 'UPPER BODY'``.

    Args:
        option: With dashes.
        word: The word, in capitals.
        given: What the option takes, with ``WORD`` for the word.
        header: Where the word is from.
    """
    known = word if quoted(word, header) == repr(word) else "WORD"
    return f"{option} {shlex.quote(given.replace('WORD', known))}"


def _names(code: str, header: Dataset | None) -> bool:
    if header is None:
        return False
    who = f"{text(header, 'PatientName')} {text(header, 'PatientID')}"
    return bool(set(plain(code).split()) & set(plain(who).split()))
