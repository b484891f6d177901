"""Words for the view of a film, in many languages, as devices and tables have them.

All patterns are for texts as :func:`radiographs.read.words.plain` returns them: in lower case,
without accents, words apart by one blank.
"""

import re
from collections.abc import Mapping
from typing import Literal

from radiographs.read.body_part import is_chest
from radiographs.read.words import ABSENT, plain

Kind = Literal["frontal", "lateral", "other", "unknown"]
"""``other`` is neither frontal nor lateral."""


def _any_of(words: str) -> str:
    return "|".join(map(plain, words.split()))


_SPELLINGS = tuple(
    (re.compile(pattern), f" {word} ")
    for pattern, word in (
        (r"decubit\w* (?:supin|pron|dorsal)\w*", "supine"),
        (r"\bposter\w*? ?anter\w*|\banter\w*? ?poster\w*|\b(?:a p|p a)\b", "ap"),
        (r"\bdorso ?ventral\w*|\bventro ?dorsal\w*|\bde face\b", "ap"),
        (_any_of("側臥 侧卧 斜位 사위"), "oblique"),
        (_any_of("正面 正位 後前位 后前位 前後位 前后位 後前 后前 前後 前后 정면 후전 전후"), "ap"),
        (_any_of("側面 侧面 側位 侧位 側方 측면"), "lateral"),
    )
)
"""Ways to write what the patterns below know. East Asian words need no blanks between them."""

_FRONTAL = re.compile(
    r"""
    ap | pa | front(al\w*|e)? | face | frente | predozad\w* | zadopred\w* | przedn\w* | tyln\w*
    | przodo\w* | tylo\w* | фронтал\w* | прям\w* | οπισθοπροσθι\w* | προσθι\w*
    """,
    re.VERBOSE,
)

_LATERAL = re.compile(
    r"""
    ll | rl | (l|r|lt|rt|left|right|x|xt|xtable|crosstable)?lat(eral\w*|ero\w*)? | xtable
    | crosstable | profil\w* | perfil | seitlich\w* | seiten?\w* | side | sida | sid[eo]bild\w*
    | bocz?n\w* | bok\w* | yan | sivu\w* | oldal\w* | zijdelings | dwars | бок\w* | профил\w*
    | πλαγι\w* | προφιλ
    """,
    re.VERBOSE,
)

_OTHER = re.compile(
    r"""
    obl\w* | schra\w* | skra\w* | skos\w* | sikm\w* | кос\w* | lao | rao | lpo | rpo | llo | rlo
    | axial\w* | lordo\w* | api[ck]\w* | decub\w* | lld | rld | swim\w* | tangen\w*
    """,
    re.VERBOSE,
)

_NEUTRAL = re.compile(
    r"""
    supin\w* | prone | lying | erect | upright | semi | semierect | standing | sitting | seated
    | portable | mobile | bed | bedside | stretcher | grid | views? | projection | position
    | insp\w* | exp\w* | adult | child | infant | pa?ediatric
    | stehend | sitzend | liegend | im | bett | in | piedi | letto | debout | assis | couche | au
    | lit | de | pie | en | em | sentado | portatil | cama | leito | liggende | staende | sittande
    | lezac\w* | stojac\w* | ayakta | проекция | стоя | лежа | ορθια
    """,
    re.VERBOSE,
)
"""Words beside a frontal view that do not change it."""


def kind_of(word: str, known: Mapping[str, Kind]) -> Kind | None:
    """Return the view that a word or text tells of; None if it says nothing.

    Args:
        word: For example ``AP SUPINE``.
        known: More words, as :func:`plain` returns them; they go before those known here.
    """
    bare = plain(word)
    if bare in known:
        return known[bare]
    if bare in ABSENT:
        return None
    if bare in ("l", "r"):
        return "lateral"
    for pattern, spelling in _SPELLINGS:
        bare = pattern.sub(spelling, bare)
    parts = re.findall(r"[^\W\d_]+", bare)
    if any(map(_OTHER.fullmatch, parts)):
        return "other"
    frontal = any(map(_FRONTAL.fullmatch, parts))
    if any(map(_LATERAL.fullmatch, parts)):
        return "unknown" if frontal else "lateral"
    beside = [part for part in parts if not _FRONTAL.fullmatch(part)]
    changed = any(not _NEUTRAL.fullmatch(part) and not is_chest(part) for part in beside)
    return "frontal" if frontal and not changed else "unknown"
