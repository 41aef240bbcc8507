from __future__ import annotations

import pytest

from talos.dht.config import DhtLimits
from talos.dht.key import kad_id
from talos.dht.providers import ProviderTable, StoredProvider
from talos.errors import RecordRejected

OWN = kad_id(b"ourselves")
GROUP = (4, 16, 0x0102)


def table(**limits: int) -> ProviderTable:
    return ProviderTable(OWN, DhtLimits(**limits), lifetime=100)


def stored(
    key: bytes = b"key", peer: bytes = b"peer", *, added: float = 0.0, group: tuple[int, int, int] | None = None
) -> StoredProvider:
    return StoredProvider(key, peer, (b"addr",), added, group)


def by_distance(count: int) -> list[bytes]:
    return sorted((b"%d" % number for number in range(count)), key=lambda key: OWN ^ kad_id(key))


def test_a_record_is_kept_for_its_time_once() -> None:
    providers = table()
    providers.add(stored(added=10))
    providers.add(stored(added=20))
    assert len(providers) == providers.keys == 1
    assert [one.added for one in providers.get(b"key", 119)] == [20]
    assert providers.get(b"key", 120) == providers.get(b"other", 20) == []
    assert providers.expire(119) == []
    assert providers.expire(120) == [(b"key", b"peer")]
    assert len(providers) == providers.keys == 0
    assert list(providers) == []


def test_one_peer_provides_so_many_keys() -> None:
    providers = table(provider_rows_per_peer=2)
    for key in (b"1", b"2", b"2"):
        providers.add(stored(key))
    with pytest.raises(RecordRejected):
        providers.add(stored(b"3"))
    providers.add(stored(b"3", b"other"))
    assert len(providers) == 3


def test_one_key_has_so_many_providers() -> None:
    providers = table(providers_per_key=2)
    providers.add(stored(peer=b"1"))
    providers.add(stored(peer=b"2"))
    with pytest.raises(RecordRejected):
        providers.add(stored(peer=b"3"))
    providers.add(stored(peer=b"2", added=5))


def test_one_address_group_is_so_many_providers_of_a_key() -> None:
    providers = table(providers_per_group=2)
    for peer in (b"1", b"2"):
        providers.add(stored(peer=peer, group=GROUP))
    with pytest.raises(RecordRejected):
        providers.add(stored(peer=b"3", group=GROUP))
    providers.add(stored(peer=b"3"))
    providers.add(stored(b"other", b"3", group=GROUP))
    providers.expire(100)
    providers.add(stored(peer=b"3", group=GROUP))


@pytest.mark.parametrize("limits", [{"provider_keys": 3}, {"provider_rows": 3}])
def test_a_full_table_keeps_the_nearest_keys(limits: dict[str, int]) -> None:
    keys = by_distance(6)
    providers = table(**limits)
    for key in (keys[5], keys[1], keys[3]):
        providers.add(stored(key))
    with pytest.raises(RecordRejected):
        providers.add(stored(by_distance(500)[-1]))
    assert providers.add(stored(keys[0])) == [(keys[5], b"peer")]
    assert providers.add(stored(keys[2])) == [(keys[3], b"peer")]
    assert {one.key for one in providers} == set(keys[:3])


def test_a_key_leaves_with_all_its_providers() -> None:
    near, far = by_distance(2)
    providers = table(provider_rows=3)
    for peer in (b"1", b"2", b"3"):
        providers.add(stored(far, peer))
    assert sorted(providers.add(stored(near))) == [(far, b"1"), (far, b"2"), (far, b"3")]
    assert len(providers) == 1
    providers.expire(1000)
    full = table(provider_rows=1)
    full.add(stored(near))
    with pytest.raises(RecordRejected):
        full.add(stored(near, b"other"))
