import base64

import pytest

from talos.identity import multibase


@pytest.mark.parametrize(
    ("text", "data"),
    [
        # The table of the multibase specification, "yes mani !"
        ("001111001011001010111001100100000011011010110000101101110011010010010000000100001", b"yes mani !"),
        ("7362625631006654133464440102", b"yes mani !"),
        ("9573277761329450583662625", b"yes mani !"),
        ("f796573206d616e692021", b"yes mani !"),
        ("F796573206D616E692021", b"yes mani !"),
        ("vf5in683dc5n6i811", b"yes mani !"),
        ("tf5in683dc5n6i811", b"yes mani !"),
        ("bpfsxgidnmfxgsibb", b"yes mani !"),
        ("BPFSXGIDNMFXGSIBB", b"yes mani !"),
        ("cpfsxgidnmfxgsibb", b"yes mani !"),
        ("hxf1zgedpcfzg1ebb", b"yes mani !"),
        ("k2lcpzo5yikidynfl", b"yes mani !"),
        ("z7paNL19xttacUY", b"yes mani !"),
        ("Z7Pznk19XTTzBtx", b"yes mani !"),
        ("meWVzIG1hbmkgIQ", b"yes mani !"),
        ("MeWVzIG1hbmkgIQ==", b"yes mani !"),
        ("ueWVzIG1hbmkgIQ", b"yes mani !"),
        ("UeWVzIG1hbmkgIQ==", b"yes mani !"),
        # and with leading zeros
        ("z17paNL19xttacUY", b"\0yes mani !"),
        ("900573277761329450583662625", b"\0\0yes mani !"),
    ],
)
def test_published_examples(text: str, data: bytes) -> None:
    assert multibase.decode(text) == data


@pytest.mark.parametrize("text", ["", "?x", "bAA", "ba", "bab", "cpfsxgidnmfxgsibb=", "MeWVzIG1hbmkgIQ=", "mé", "f0"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"prefix|alphabet|shortest|padding"):
        multibase.decode(text)


def test_bits_agree_with_the_standard_library() -> None:
    for length in range(12):
        data = bytes(range(200, 200 + length))
        text = multibase.encode_bits(data, multibase.BASE32)
        assert text == base64.b32encode(data).decode().lower().rstrip("=")
        assert multibase.decode_bits(text, multibase.BASE32) == data


def test_base58_keeps_leading_zeros() -> None:
    for data in (b"", b"\0", b"\0\0\1", b"\xff" * 40):
        assert multibase.decode_base58btc(multibase.encode_base58btc(data)) == data
