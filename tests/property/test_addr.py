from hypothesis import assume, example, given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from talos import addr as addrs
from talos.addr import decode_or_skip, parse
from talos.addr.binary import FLAG, PROTOCOLS, VAR
from talos.errors import ConfigError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import varint

peers = st.binary(min_size=32, max_size=32).map(lambda seed: PeerId.from_key(PrivateKey.from_seed(seed).public_key))


@st.composite
def components(draw: st.DrawFn) -> bytes:
    """One component of a known protocol, mostly with a value that it may have."""
    name, code, size = draw(st.sampled_from(PROTOCOLS))
    if size == FLAG:
        return varint.encode(code)
    if size != VAR:
        return varint.encode(code) + draw(st.binary(min_size=size, max_size=size))
    if name == "p2p":
        value = draw(peers).to_bytes()
    else:
        value = draw(
            st.one_of(st.text(max_size=12).map(str.encode), st.from_regex(rb"[a-z0-9.-]{1,12}", fullmatch=True))
        )
    return varint.encode(code) + varint.encode(len(value)) + value


@given(st.one_of(st.binary(max_size=80), st.lists(components(), max_size=6).map(b"".join)))
@example(b"\x35\x02.a")
def test_bytes_are_an_address_that_prints_or_refused(data: bytes) -> None:
    try:
        address = decode_or_skip(data)
    except RemoteProtocolError:
        return
    if address is None:
        return
    assert address.to_bytes() == data
    text = str(address)
    parts = addrs.components(address)
    assert len(parts) <= addrs.MAX_COMPONENTS
    addrs.is_public(address), addrs.is_private(address), addrs.is_loopback(address), addrs.is_relayed(address)
    bare, peer = addrs.split_peer(address)
    if peer is not None and addrs.split_peer(bare)[1] is None:
        assert addrs.with_peer(bare, peer) == address
    if "unix" not in addrs.names_of(address):  # a path's text runs to the end
        assert parse(text) == address


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from([*(row[0] for row in PROTOCOLS), "1", "1.2.3.4", "a", "", "::1"])).map("/".join),
    )
)
@example("/dns4/\ud800")
def test_text_is_an_address_that_reads_back_or_a_config_error(text: str) -> None:
    try:
        address = parse("/" + text)
    except ConfigError:
        return
    assert parse(str(address)) == address
    assert decode_or_skip(address.to_bytes()) == address


@given(st.ip_addresses(v=4), st.integers(0, 65535), peers)
def test_agrees_with_the_library_on_what_it_reads_well(ip: object, port: int, peer: PeerId) -> None:
    text = f"/ip4/{ip}/tcp/{port}/p2p/{peer}"
    assert parse(text) == Multiaddr(text)
    assert str(parse(text)) == text
    assert addrs.host_port(parse(text)) == (str(ip), port)


@given(st.ip_addresses(), st.integers(0, 32))
def test_blocks_hold_their_address_and_those_around_it(ip: object, prefix: int) -> None:
    from ipaddress import IPv4Address, IPv6Address

    assert isinstance(ip, (IPv4Address, IPv6Address))
    version, bits, number = addrs.ip_block(ip, prefix)
    assert (version, bits) == (ip.version, prefix)
    spare = ip.max_prefixlen - prefix
    assert number << spare <= int(ip) < number + 1 << spare


@given(st.text("/abp2.%20 ", max_size=30), peers)
def test_unix_paths_keep_their_peer(path: str, peer: PeerId) -> None:
    try:
        bare = parse("/unix/" + path)
    except ConfigError:
        assume(False)
    full = addrs.with_peer(bare, peer)
    if addrs.split_peer(bare)[1] is None:
        assert parse(str(full)) == full
        assert addrs.path_of(full) == addrs.path_of(bare)
