"""Options for words of headers and tables that are not known: lists separated by commas."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from radiographs.read.view_words import Kind
from radiographs.read.words import plain

KINDS: dict[str, Kind] = {"frontal": "frontal", "lateral": "lateral", "other": "other"}


def _split(value: str | list[str]) -> list[str]:
    """Return the parts of a list separated by commas; from the command line it comes split."""
    texts = [value] if isinstance(value, str) else value
    return [part.strip() for text in texts for part in text.split(",")]


def _check_word(word: str) -> str:
    if not plain(word):
        raise ValueError("a word with letters or digits is needed")
    return word


def _check_view_word(text: str) -> str:
    word, _, kind = text.rpartition("=")
    if not plain(word) or kind not in KINDS:
        raise ValueError(f"give WORD=VIEW, where VIEW is one of {', '.join(KINDS)}")
    return text


Words = Annotated[
    list[Annotated[str, AfterValidator(_check_word)]], NoDecode, BeforeValidator(_split)
]
ViewWords = Annotated[
    list[Annotated[str, AfterValidator(_check_view_word)]], NoDecode, BeforeValidator(_split)
]


def chest_words(words: Sequence[str]) -> frozenset[str]:
    """Return words as :func:`radiographs.read.words.plain` returns them."""
    return frozenset(map(plain, words))


def view_words(texts: Sequence[str]) -> dict[str, Kind]:
    """Return the view of each word, likewise, from texts such as ``W1=frontal``."""
    parts = (text.rpartition("=") for text in texts)
    return {plain(word): KINDS[kind] for word, _, kind in parts}
