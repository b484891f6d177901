"""Whether a DICOM header tells of the chest, by words in many languages and by codes.

BodyPartExamined holds a word, AnatomicRegionSequence a code (PS3.16 CID 4009, CID 4031, Annex L).
Either can be missing. A film is refused if either tells of another part, whatever the other says.
Of codes only the value is believed: meanings are translated, and some are left from a template.
"""
# ruff: noqa: RUF001 - letters of other alphabets are meant

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from radiographs.read.decode import Unreadable
from radiographs.read.words import ABSENT, SNOMED, Code, codes, plain, quoted, readings, remedy

OPTION = "--body-part"

_PARTS_OF_WORDS = """
    chest, thorax, thorace, thoracic, torax, toraks, torace, toracic, pulmo, pulma, polmon, poumon,
    brustkorb, brystkas, brostkorg, borstkas, rintakeh, keuhko, mellkas, hrudnik, prsni kos,
    grudni kos, akciger,
    klatka piersiow, klatki piersiow, klatke piersiow, krutines lasta, kruskurvis, rindkere,
    cage thoracique, long nguc,
    грудная клетка, грудной клетки, грудную клетку, грудна клітка, грудної клітки, гръден кош,
    легкие, легких, легкое, легені, легкі, θωραξ, θωρακα, πνευμον,
    흉부, 가슴, 胸部, 胸廓, 胸郭, 胸腔, 胸片, 肺, きょうぶ, الصدر, ทรวงอก
"""
"""Found anywhere in a text: too long to be a part of another word."""

_WHOLE_WORDS = """
    cxr, chst, thx, lung, lungs, lunge, lungen, lunger, lungor, longen, brust, bryst, brost, borst,
    pecho, peito, poitrine, petto, piept, plamani, pluca, plice, pljuca, gogus, nguc, phoi, dada,
    paru, krutine, rind, грудь, огк, 폐, 胸, むね, ムネ, صدر, חזה, ปอด, छाती
"""

_OTHER_BONES = """
    spina, spine, vertebr, wirbel, column, colonn, colun, rachis, wervel, kregoslup, pater, omurga,
    gerinc, позвон, хребе, σπονδυλ, 椎, 척추, ribs, costill, costal, sternum, oseo,
    osseo, knocher
"""
"""Parts of words: spine, ribs and breastbone are named after the chest, but are other films."""

_OTHER_PARTS = """
    head, skull, shoulder, clavicle, scapula, humerus, elbow, forearm, wrist, hand, finger, rib,
    pelvis, hip, femur, knee, ankle, foot, toe, craneo, hombro, codo, mano, rodilla, pie, schadel,
    schulter, ellenbogen, rippen, becken, hufte, knie, fuss, crane, epaule, coude, cotes, bassin,
    hanche, genou, pied, cranio, spalla, gomito, coste, bacino, ginocchio, piede
"""
"""Whole words: beside one for the chest, only a person knows which part is meant.

Not those that a film of the chest may also show: abdomen and neck.
"""


def _any_of(words: str) -> str:
    return "|".join(plain(word) for word in words.split(","))


def _either(parts_of_words: str, whole_words: str) -> re.Pattern[str]:
    return re.compile(f"{_any_of(parts_of_words)}|(?:^| )(?:{_any_of(whole_words)})(?: |$)")


_CHEST = _either(_PARTS_OF_WORDS, _WHOLE_WORDS)
_NOT_CHEST = _either(_OTHER_BONES, _OTHER_PARTS)

_SNOMED_CHEST = {
    *("816094009", "51185008", "T-D3000", "302551006"),  # chest, thorax, entire thorax
    *("43799004", "T-D3200"),  # chest cavity
    *("39607008", "T-28000", "3341006", "T-28100", "44029006", "T-28500"),  # lung, right, left
    *("74101002", "86598002", "T-280A0"),  # both lungs, apex of lung
    *("417437006", "R-FAB52", "416152001", "R-FAB53"),  # with neck, with neck and abdomen
    *("416319003", "R-FAB54", "416550000", "R-FAB55", "416775004", "R-FAB56"),  # with abdomen ...
}

_OTHER_CHEST = {
    "FMA": {"9576", "7195"},
    "RADLEX": {"RID1243", "RID1301"},
    "UMLS": {"C0817096", "C0024109"},
}


def is_chest(word: str) -> bool:
    """Return whether a word or text tells of the chest: ``THORAX PA``, ``Tórax``, ``胸部``."""
    bare = plain(word)
    return _CHEST.search(bare) is not None and not _NOT_CHEST.search(bare)


def check_body_part(header: Dataset, known: frozenset[str] = frozenset()) -> bool:
    """Return whether the header tells of the chest; False if it tells of no part.

    Args:
        header: The file's header.
        known: More words and codes for the chest, as :func:`plain` returns them.

    Raises:
        Unreadable: It tells of another part, or in a word or code that is not known.
    """
    words = [word for word in readings(header, "BodyPartExamined") if plain(word) not in ABSENT]
    if words and not _is_any_chest(words, known):
        how = remedy(OPTION, words[0], "WORD", header)
        raise Unreadable(f"body part {quoted(words[0], header)}, not the chest; if it is: {how}")
    regions = codes(header, "AnatomicRegionSequence")
    if any(_is_chest_code(code, known) for code in regions):
        return True
    # A code of a hospital's or a maker's own counts only where there is no word.
    for code in regions:
        if not words or code.scheme in (*SNOMED, *_OTHER_CHEST):
            how = remedy(OPTION, code.value, "WORD", header)
            which = quoted(code.value, header)
            raise Unreadable(f"anatomic region {which}, not known as the chest; if it is: {how}")
    return bool(words)


def _is_any_chest(words: Sequence[str], known: frozenset[str]) -> bool:
    """Return whether readings of a text tell of the chest, and none of another part.

    In the wrong character set, a text may lose the word of the other part alone.
    """
    bare = [plain(word) for word in words]
    if any(word in known for word in bare):
        return True
    return any(map(is_chest, words)) and not any(map(_NOT_CHEST.search, bare))


def _is_chest_code(code: Code, known: frozenset[str]) -> bool:
    if not code.value:
        return is_chest(code.meaning)
    if plain(code.value) in known:
        return True
    if code.scheme in SNOMED:
        return code.value in _SNOMED_CHEST
    return code.value.removeprefix(f"{code.scheme}:") in _OTHER_CHEST.get(code.scheme, ())
