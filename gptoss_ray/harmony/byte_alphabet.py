"""The byte-level alphabet of tokenizer.json: one printable character for each of the 256 bytes.

Printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up (GPT-2's
`bytes_to_unicode`), so that token bytes can be keys of a JSON object.
"""

from __future__ import annotations

_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

_CHARACTER_OF_BYTE = {byte: byte for byte in _PRINTABLE} | {
    byte: 256 + index for index, byte in enumerate(_OTHERS)
}
_BYTE_OF_CHARACTER = {character: byte for byte, character in _CHARACTER_OF_BYTE.items()}


def to_text(token: bytes) -> str:
    """Write token bytes as one character a byte."""
    return token.decode("latin-1").translate(_CHARACTER_OF_BYTE)


def to_bytes(text: str) -> bytes:
    """Read token bytes from one character a byte; ValueError where a character is not of the alphabet."""
    try:
        return bytes([_BYTE_OF_CHARACTER[ord(character)] for character in text])
    except KeyError as error:
        raise ValueError(f"{text!r} has {chr(error.args[0])!r}, which stands for no byte") from error
