from __future__ import annotations

import pytest

from talos.dht.config import DhtLimits
from talos.dht.key import kad_id
from talos.dht.values import StoredValue, ValueTable
from talos.errors import RecordRejected

OWN = kad_id(b"ourselves")


def table(**limits: int) -> ValueTable:
    return ValueTable(OWN, DhtLimits(**limits), lifetime=100)


def stored(key: bytes, value: bytes = b"value", received: float = 0.0, source: bytes = b"peer") -> StoredValue:
    return StoredValue(key, value, received, source)


def by_distance(count: int) -> list[bytes]:
    """Keys, the nearest to us first."""
    keys = [b"/example/%d" % number for number in range(count)]
    return sorted(keys, key=lambda key: OWN ^ kad_id(key))


def test_a_value_is_kept_for_its_time() -> None:
    values = table()
    assert values.put(stored(b"/a/b", received=1000)) == []
    for now, is_there in ((1000, True), (1099, True), (1100, False), (901, True), (900, False)):
        assert (values.get(b"/a/b", now) is not None) == is_there
    assert values.get(b"/a/other", 1000) is None
    assert values.expire(1099) == []
    assert values.expire(1100) == [b"/a/b"]
    assert (len(values), values.bytes) == (0, 0)


def test_a_new_value_takes_the_place_of_the_old() -> None:
    values = table(values=1, values_per_peer=1)
    values.put(stored(b"/a/b", b"1"))
    values.put(stored(b"/a/b", b"22"))
    values.put(stored(b"/a/b", b"333", source=b"other"))
    assert [one.value for one in values] == [b"333"]
    assert values.bytes == len(b"/a/b" + b"333")
    values.put(stored(b"/a/b", b"1"))


def test_one_peer_puts_so_many() -> None:
    values = table(values_per_peer=2)
    values.put(stored(b"/a/1"))
    values.put(stored(b"/a/2"))
    with pytest.raises(RecordRejected):
        values.put(stored(b"/a/3"))
    values.put(stored(b"/a/2", b"another"))
    values.put(stored(b"/a/3", source=b"other"))
    with pytest.raises(RecordRejected):
        values.put(stored(b"/a/3"))  # nor may it take over what another has put
    values.remove(b"/a/1")
    values.put(stored(b"/a/4"))
    values.remove(b"/a/none")
    assert len(values) == 3


def test_a_full_table_keeps_what_is_nearest() -> None:
    keys = by_distance(6)
    values = table(values=3)
    for key in (keys[5], keys[1], keys[3]):
        values.put(stored(key))
    with pytest.raises(RecordRejected):
        values.put(stored(by_distance(500)[-1]))
    assert values.put(stored(keys[0])) == [keys[5]]
    assert values.put(stored(keys[2])) == [keys[3]]
    assert {one.key for one in values} == {keys[0], keys[1], keys[2]}


def test_a_full_table_is_one_of_too_many_bytes_too() -> None:
    keys = by_distance(4)
    values = table(values_bytes=300)
    values.put(stored(keys[3], bytes(100)))
    values.put(stored(keys[2], bytes(100)))
    assert values.put(stored(keys[0], bytes(260))) == [keys[3], keys[2]]
    with pytest.raises(RecordRejected):
        values.put(stored(keys[1], bytes(100)))
    with pytest.raises(RecordRejected):
        values.put(stored(keys[0], bytes(400)))
    assert [len(one.value) for one in values] == [260]
