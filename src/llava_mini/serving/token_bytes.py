"""The bytes of one token: a token may be a part of a character, which is no text by itself.

Byte-level tokenizers write each byte as one printable character (GPT-2's table); SentencePiece writes the bytes that
it has no word for as <0xE6>.
"""

import re
from functools import cache
from typing import Any


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """Return what a token adds to an answer; where the tokenizer does not tell, its text in UTF-8."""
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        written = tokenizer.convert_ids_to_tokens(token)
        if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", written):
            return bytes.fromhex(byte[1])
        if all(character in _byte_of() for character in written):
            return bytes(_byte_of()[character] for character in written)
    return bytes(text.encode("utf-8", "replace"))


@cache
def _byte_of() -> dict[str, int]:
    """Return GPT-2's table: bytes that are printable in Latin-1 stand for themselves, the others follow from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
