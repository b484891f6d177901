import base64
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput
from common.keys import new_key, public_text, read_key, sign, verifies, write_key

KEY = new_key()


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8 % len(content)] ^= 1 << bit % 8
    return bytes(changed)


def test_a_key_is_the_same_after_reading_and_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "site.key", KEY)
    finally:
        os.umask(before)
    assert (tmp_path / "site.key").stat().st_mode & 0o777 == 0o600
    assert public_text(read_key(tmp_path / "site.key")) == public_text(KEY)
    assert public_text(new_key()) != public_text(KEY)
    assert len(base64.b64decode(public_text(KEY))) == 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    write_key(tmp_path / "site.key", KEY)
    (tmp_path / "site.key").chmod(mode)
    with pytest.raises(BadInput, match=rf"site\.key: .*mode {mode:o}.*chmod 600"):
        read_key(tmp_path / "site.key")


def pem_of(private: bool, password: bytes | None = None) -> bytes:
    if not private:
        return KEY.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    return KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00", pem_of(private=False), pem_of(True, b"secret"), pem_of(True)[:-40]],
    ids=["empty", "noise", "public", "encrypted", "cut off"],
)
def test_what_is_no_private_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "site.key").touch(mode=0o600)
    (tmp_path / "site.key").write_bytes(content)
    with pytest.raises(BadInput, match=r"site\.key: not a private Ed25519 key"):
        read_key(tmp_path / "site.key")


def test_another_kind_of_key_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    write_key(tmp_path / "server.key", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(BadInput, match="not a private Ed25519 key"):
        read_key(tmp_path / "server.key")
    with pytest.raises(BadInput, match=r"none\.key: cannot be read: No such file"):
        read_key(tmp_path / "none.key")


@given(st.binary(min_size=1), st.integers(0))
def test_a_signature_holds_for_one_message_one_key_and_one_text(message: bytes, bit: int) -> None:
    public, signature = public_text(KEY), sign(KEY, message)
    assert verifies(public, message, signature)
    assert not verifies(public, flip(message, bit), signature)
    assert not verifies(public_text(new_key()), message, signature)
    for text in (public, signature):
        raw = base64.b64encode(flip(base64.b64decode(text), bit)).decode()
        characters = flip(text.encode(), bit).decode("latin-1")
        for changed in (raw, characters, text + "\n", text.rstrip("=")):
            pair = (changed, signature) if text is public else (public, changed)
            assert not verifies(pair[0], message, pair[1])


# Surrogates too: JSON can carry them.
texts = st.text(st.characters()) | st.binary().map(lambda raw: base64.b64encode(raw).decode())


@given(texts | st.just(public_text(KEY)), st.binary(), texts)
def test_whatever_the_texts_hold_is_no_fault(public: str, message: bytes, signature: str) -> None:
    assert not verifies(public, message, signature)
