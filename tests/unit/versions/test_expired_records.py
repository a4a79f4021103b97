"""Records seen expired: which are kept, and what a clock that was set back would revive."""

from __future__ import annotations

import random

from pmkv.versions.expired_records import EXPIRED_RECORDS_MAX, ExpiredRecords


def test_a_record_is_its_location_and_its_expiry() -> None:
    records = ExpiredRecords()
    records.add([[8, 100], [16, 200]], lsn=7)
    assert (8, 100) in records and (8, 200) not in records and (24, 100) not in records
    assert (records.lsn, records.newest, records.to_record()) == (7, 200, [[8, 100], [16, 200]])
    assert records.after(99) == [(8, 100), (16, 200)] and records.after(100) == [(16, 200)] and records.after(200) == []
    records.add([(8, 300)])  # the place was used again
    assert (8, 300) in records and (8, 100) not in records and records.lsn == 7


def test_the_newest_are_kept_in_whatever_order_they_come() -> None:
    many = [(i, 1000 + i // 3) for i in range(EXPIRED_RECORDS_MAX + 500)]
    kept = []
    for seed in range(3):
        records, shuffled = ExpiredRecords(), many.copy()
        random.Random(seed).shuffle(shuffled)
        records.add(shuffled)
        kept.append(records.to_record())
    assert kept[0] == kept[1] == kept[2] == [list(record) for record in many[500:]]
    assert not records.is_news(many[0]) and not records.is_news(many[-1]) and records.is_news((0, 10**6))
