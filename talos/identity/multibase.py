"""Multibase text: a first character that names the alphabet, then the bytes in it.

Decoding is strict (one text for one value and alphabet) and meant for short texts: the alphabets whose size is
no power of two cost time in the square of the length, so callers cap it first.
"""

from __future__ import annotations

__all__ = ["BASE32", "BASE58BTC", "decode", "decode_base58btc", "decode_bits", "encode_base58btc", "encode_bits"]

_DIGITS = "0123456789"
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_UPPER = _LOWER.upper()
_HEX32 = _DIGITS + _LOWER[:22]

BASE58BTC = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BASE32 = _LOWER + "234567"

# Alphabets of a power of two, by prefix: (alphabet, padded to whole groups with "=").
_BITS = {
    "0": ("01", False),
    "7": ("01234567", False),
    "f": (_DIGITS + "abcdef", False),
    "F": (_DIGITS + "ABCDEF", False),
    "v": (_HEX32, False),
    "V": (_HEX32.upper(), False),
    "t": (_HEX32, True),
    "T": (_HEX32.upper(), True),
    "b": (BASE32, False),
    "B": (BASE32.upper(), False),
    "c": (BASE32, True),
    "C": (BASE32.upper(), True),
    "h": ("ybndrfg8ejkmcpqxot1uwisza345h769", False),
    "m": (_UPPER + _LOWER + _DIGITS + "+/", False),
    "M": (_UPPER + _LOWER + _DIGITS + "+/", True),
    "u": (_UPPER + _LOWER + _DIGITS + "-_", False),
    "U": (_UPPER + _LOWER + _DIGITS + "-_", True),
}
# The others: the bytes are one number, leading zero bytes are leading zero digits.
_NUMBER = {
    "9": _DIGITS,
    "k": _DIGITS + _LOWER,
    "K": _DIGITS + _UPPER,
    "z": BASE58BTC,
    "Z": "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ",
}


def decode(text: str) -> bytes:
    """The bytes of multibase `text`; ValueError when it is not in an alphabet known here."""
    prefix, body = text[:1], text[1:]
    if prefix in _NUMBER:
        return _decode_number(body, _NUMBER[prefix])
    if prefix not in _BITS:
        raise ValueError("no known multibase prefix")
    alphabet, padded = _BITS[prefix]
    if padded:
        body = _strip_padding(body, alphabet)
    return decode_bits(body, alphabet)


def encode_base58btc(data: bytes) -> str:
    """`data` in base58btc, without a prefix."""
    number, digits = int.from_bytes(data, "big"), []
    while number:
        number, digit = divmod(number, 58)
        digits.append(BASE58BTC[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return BASE58BTC[0] * zeros + "".join(reversed(digits))


def decode_base58btc(text: str) -> bytes:
    """The bytes of base58btc without a prefix; ValueError for a foreign character."""
    return _decode_number(text, BASE58BTC)


def encode_bits(data: bytes, alphabet: str) -> str:
    """`data` in an alphabet of a power of two, without padding."""
    width = len(alphabet).bit_length() - 1
    count = (len(data) * 8 + width - 1) // width
    number = int.from_bytes(data, "big") << count * width - len(data) * 8
    mask = len(alphabet) - 1
    return "".join(alphabet[number >> width * place & mask] for place in reversed(range(count)))


def decode_bits(text: str, alphabet: str) -> bytes:
    """The bytes of text without padding; ValueError unless `encode_bits` gives it back."""
    width = len(alphabet).bit_length() - 1
    spare = len(text) * width % 8
    number = _number(text, alphabet)
    if spare >= width or number & (1 << spare) - 1:
        raise ValueError("text is not the shortest for its bytes")
    return (number >> spare).to_bytes(len(text) * width // 8, "big")


def _decode_number(text: str, alphabet: str) -> bytes:
    number = _number(text, alphabet)
    zeros = len(text) - len(text.lstrip(alphabet[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _number(text: str, alphabet: str) -> int:
    number, base = 0, len(alphabet)
    for character in text:
        digit = alphabet.find(character)
        if digit < 0:
            raise ValueError(f"{character!r} is not in the alphabet")
        number = number * base + digit
    return number


def _strip_padding(text: str, alphabet: str) -> str:
    group = 8 if len(alphabet) == 32 else 4
    bare = text.rstrip("=")
    if len(text) != -(-len(bare) // group) * group:
        raise ValueError("padding does not fill the last group")
    return bare
