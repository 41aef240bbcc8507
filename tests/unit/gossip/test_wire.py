"""RPCs and messages on the wire: what is read, what is refused, what stays as it came."""

from __future__ import annotations

import pytest

from talos.errors import RemoteProtocolError
from talos.gossip import wire
from talos.gossip.config import GossipLimits
from talos.gossip.wire import BadMessage, MessageFields, Prune
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import fields
from talos.wire.pb import gossip_pb2 as pb
from tests.unit.gossip.peers import rpc

LIMITS = GossipLimits()
SEED = bytes.fromhex("7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d")
UNSIGNED = bytes.fromhex(
    "0a260024080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    "120568656c6c6f1a080000000000000001220a74616c6f732f74657374"
)
SIGNATURE = bytes.fromhex(
    "c7e06c3ee32a60756a221cd8cf9e29c0ab0699a83cb1072c3d771c7fde1e1f69"
    "d0507e8dc60363b435cc8f4420c599b81ebb4237c3f7d9359dfc9cf4458c0c06"
)


def test_vector() -> None:
    key = PrivateKey.from_seed(SEED)
    author = PeerId.from_key(key.public_key).to_bytes()
    unsigned = wire.encode_message(author, b"hello", (1).to_bytes(8, "big"), "talos/test")
    assert unsigned == UNSIGNED
    assert key.sign(wire.SIGN_PREFIX + unsigned) == SIGNATURE
    message = MessageFields(wire.with_signature(unsigned, SIGNATURE, None))
    assert message.signed_part() == b"libp2p-pubsub:" + UNSIGNED
    assert (message.author, message.data, message.topic) == (author, b"hello", "talos/test")
    assert (message.seqno, message.signature, message.key) == ((1).to_bytes(8, "big"), SIGNATURE, None)


def test_signed_part_leaves_out_signature_and_key_only_wherever_they_stand() -> None:
    unknown = fields.bytes_field(99, b"kept") + fields.uint64_field(7, 300)
    raw = fields.bytes_field(6, b"key") + UNSIGNED + fields.bytes_field(5, b"signature") + unknown
    message = MessageFields(raw)
    assert message.signed_part() == wire.SIGN_PREFIX + UNSIGNED + unknown
    assert message.key == b"key"
    assert message.raw is raw


def test_message_without_data_is_empty_data() -> None:
    assert MessageFields(fields.bytes_field(4, b"t")).data == b""


@pytest.mark.parametrize(
    ("raw", "fault", "topic"),
    [
        (b"\x0a\x7f", "is malformed", None),
        (fields.bytes_field(4, b"a") + fields.bytes_field(7, b"") * 64, "is malformed", None),
        (fields.bytes_field(2, b"x"), "has no topic", None),
        (fields.bytes_field(4, b"\xff"), "not UTF-8", None),
        (fields.bytes_field(4, b"a") + fields.bytes_field(4, b"b"), "twice", "a"),
        (UNSIGNED + fields.bytes_field(2, b"more"), "twice", "talos/test"),
    ],
)
def test_bad_messages(raw: bytes, fault: str, topic: str | None) -> None:
    with pytest.raises(BadMessage, match=fault) as caught:
        MessageFields(raw)
    assert caught.value.topic == topic


def test_rpc_as_the_protobuf_library_writes_it() -> None:
    written = pb.RPC(
        subscriptions=[pb.RPC.SubOpts(subscribe=True, topicid=b"a"), pb.RPC.SubOpts(topicid=b"b")],
        publish=[b"one", b"two"],
        control=pb.ControlMessage(
            ihave=[pb.ControlIHave(topicID=b"a", messageIDs=[b"\xff\x00", b"2"])],
            iwant=[pb.ControlIWant(messageIDs=[b"3"]), pb.ControlIWant(messageIDs=[b"4"])],
            graft=[pb.ControlGraft(topicID=b"g")],
            prune=[
                pb.ControlPrune(topicID=b"p", peers=[pb.PeerInfo(peerID=b"id")], backoff=2**64 - 1),
                pb.ControlPrune(topicID=b"q"),
            ],
            idontwant=[pb.ControlIDontWant(messageIDs=[b"5"])],
            extensions=pb.ControlExtensions(),
        ),
    ).SerializeToString()
    read = wire.decode_rpc(written + fields.uint64_field(77, 1), LIMITS)
    assert read.subscriptions == [(True, "a"), (False, "b")]
    assert read.messages == [b"one", b"two"]
    assert read.control is not None
    assert [(topic, list(ids)) for topic, ids in read.control.ihave] == [("a", [b"\xff\x00", b"2"])]
    assert read.control.iwant == [b"3", b"4"]
    assert read.control.graft == ["g"]
    assert read.control.prune == [Prune("p", [(b"id", b"")], 2**64 - 1), Prune("q", [], None)]
    assert [list(ids) for ids in read.control.idontwant] == [[b"5"]]
    assert read.control.extensions


def test_what_we_write_is_what_the_protobuf_library_reads() -> None:
    items = (
        wire.ihave("a", [b"1", b"2"]),
        wire.iwant([b"3"]),
        wire.idontwant([b"4"]),
        wire.graft("g"),
        wire.prune(Prune("p", [(b"id", b"record"), (b"other", b"")], 60)),
        wire.prune(Prune("q")),
        wire.EXTENSIONS,
    )
    outer = (wire.subscription("a", wanted=True), wire.subscription("b", wanted=False), wire.publish(b"m"))
    read = pb.RPC.FromString(rpc(*outer, control=items))
    assert [(one.subscribe, one.topicid) for one in read.subscriptions] == [(True, b"a"), (False, b"b")]
    assert list(read.publish) == [b"m"]
    assert list(read.control.ihave[0].messageIDs) == [b"1", b"2"]
    assert list(read.control.iwant[0].messageIDs) == [b"3"]
    assert list(read.control.idontwant[0].messageIDs) == [b"4"]
    assert [one.topicID for one in read.control.graft] == [b"g"]
    assert [(one.topicID, one.backoff, one.HasField("backoff")) for one in read.control.prune] == [
        (b"p", 60, True),
        (b"q", 0, False),
    ]
    assert [(one.peerID, one.signedPeerRecord) for one in read.control.prune[0].peers] == [
        (b"id", b"record"),
        (b"other", b""),
    ]
    assert read.control.HasField("extensions")


def test_two_control_parts_are_one() -> None:
    parts = fields.bytes_field(3, wire.graft("a")) + fields.bytes_field(3, wire.graft("b"))
    read = wire.decode_rpc(parts, LIMITS)
    assert read.control is not None
    assert read.control.graft == ["a", "b"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x00\x00",
        b"\x0b",
        fields.bytes_field(1, fields.bytes_field(2, b"\xff")),
        fields.bytes_field(1, fields.bytes_field(2, bytes(300))),
        fields.bytes_field(3, b"\x0a\x03\x0a\x01"),
        fields.bytes_field(3, wire.ihave("t", ()) + b"\x12\x03\x0a\x05x"),
        fields.bytes_field(3, fields.bytes_field(3, b"\x0a\x7f")),
        fields.bytes_field(3, fields.bytes_field(3, fields.bytes_field(1, b"\xff\xfe"))),
    ],
)
def test_malformed_rpcs(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_rpc(data, LIMITS)


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (GossipLimits(control_bytes=10), rpc(control=(wire.graft("a" * 9),))),
        (GossipLimits(control_items=2), rpc(control=(wire.graft("a"),) * 3)),
        (GossipLimits(control_ids=2), rpc(control=(wire.iwant([b""] * 3),))),
        (GossipLimits(control_ids=2), rpc(control=(wire.ihave("", [b""] * 2),))),
        (GossipLimits(control_ids=3), rpc(control=(wire.iwant([b""] * 2),) * 2)),
        (GossipLimits(), b"\x0a\x00" * 100_000),
        (GossipLimits(topic_bytes=3), rpc(control=(wire.graft("four"),))),
    ],
)
def test_limits_are_judged_before_anything_is_decoded(
    limits: GossipLimits, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_rpc(data, limits)
    if limits.topic_bytes == LIMITS.topic_bytes:
        monkeypatch.delattr(wire, "pb")
        with pytest.raises(RemoteProtocolError):
            wire.decode_rpc(data, limits)


def test_surplus_subscriptions_are_counted_not_read() -> None:
    data = rpc(*[wire.subscription("t", wanted=True)] * 2, fields.bytes_field(1, b"\xff"))
    read = wire.decode_rpc(data, GossipLimits(subscriptions=2))
    assert len(read.subscriptions) == 2
    assert read.surplus == 1


def test_messages_over_the_limit_are_left_out() -> None:
    read = wire.decode_rpc(rpc(*[wire.publish(b"%d" % number) for number in range(5)]), GossipLimits(messages=3))
    assert (read.messages, read.left_out) == ([b"0", b"1", b"2"], 2)


def test_fields_of_other_proposals_are_skipped() -> None:
    opts = (
        fields.bytes_field(2, b"t") + fields.uint64_field(3, 1) + fields.uint64_field(1, 1) + fields.uint64_field(4, 1)
    )
    rpc_10 = fields.bytes_field(10, b"partial")
    assert wire.decode_rpc(fields.bytes_field(1, opts) + rpc_10, LIMITS).subscriptions == [(True, "t")]


def test_long_fields_have_long_lengths() -> None:
    [body] = [wire.publish(bytes(20_000))]
    assert wire.decode_rpc(body, LIMITS).messages == [bytes(20_000)]
