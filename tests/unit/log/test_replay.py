"""Recovery: where a log ends, a torn tail told from damage, at every byte of it."""

from __future__ import annotations

import pytest

from pmkv.errors import CorruptionError
from pmkv.log import replay as replay_module
from pmkv.log.format import Frame, Kind
from pmkv.log.log import Log
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool
from pmkv.media.memory import MemoryMedium
from tests.engines import PAGE_SEGMENT, append, copy_of, frames, make_log, small_medium


def found(medium: MemoryMedium, last: int | None = None) -> tuple[list[int], Replay]:
    """(LSNs recovered, the replay)."""
    replay = Replay(Pool.load(medium), last)
    return [frame.lsn for frame in replay], replay


def lsns(log: Log) -> list[int]:
    return [frame.lsn for frame in frames(log.pool.medium)]


@pytest.fixture
def acknowledged() -> Log:
    """Three flushed frames, each telling of the one before, over nothing else."""
    log = make_log(small_medium(12, PAGE_SEGMENT))
    for i in range(3):
        append(log, b"acknowledged %d" % i)
        log.flush(log.lsn)
    return log


def test_an_empty_pool_has_an_empty_log() -> None:
    medium = small_medium(8, PAGE_SEGMENT)
    Pool.create(medium, PAGE_SEGMENT)
    whole, replay = found(medium)
    assert (whole, replay.lsn, replay.segments, replay.undurable) == ([], 0, [], [])


def test_a_segment_that_was_prepared_only_has_an_empty_log() -> None:
    medium = small_medium(8, PAGE_SEGMENT)
    Pool.create(medium, PAGE_SEGMENT).preallocate_segment()
    whole, replay = found(medium)
    assert (whole, replay.position) == ([], 4096 + 64)


def test_the_state_at_the_end(acknowledged: Log) -> None:
    whole, replay = found(acknowledged.pool.medium)
    assert whole == lsns(acknowledged)
    assert (replay.lsn, replay.previous, replay.position) == (
        acknowledged.lsn, acknowledged.appender.previous, acknowledged.position)  # fmt: skip
    last = frames(acknowledged.pool.medium)[-1]
    assert replay.durable == acknowledged.lsn - 1, "the last frame itself is proved by none behind it"
    assert replay.undurable == [(last.offset, last.body + last.length)]
    assert not replay.is_marked
    acknowledged.mark()
    assert found(acknowledged.pool.medium)[1].is_marked


def test_a_replay_up_to_a_given_frame(acknowledged: Log) -> None:
    durable = acknowledged.lsn
    append(acknowledged)
    assert found(acknowledged.pool.medium, durable)[0] == lsns(acknowledged)[:-1]


@pytest.mark.parametrize("is_live", [False, True])
def test_a_replay_that_goes_on_reads_ahead_what_it_may_need(
    acknowledged: Log, is_live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "LIVE_BYTES", 100)
    pool, asked = Pool.load(acknowledged.pool.medium), []
    end = found(acknowledged.pool.medium)[1].end()
    monkeypatch.setattr(pool.medium, "will_read", lambda start, stop: asked.append((start, stop)), raising=False)
    assert list(Replay(pool, start=end, is_live=is_live)) == []
    assert asked[0] == (end.position, end.position + 100 if is_live else pool.stop(0))


def tails(log: Log, kind: str) -> None:
    """Append what is torn: nothing of it is acknowledged."""
    if kind == "frames":
        for i in range(3):
            append(log, b"tail" * i)
    elif kind == "batch":
        with log.batch():
            for i in range(3):
                append(log, b"tail" * i)
    else:
        append(log, bytes(2000))
        with log.batch():
            for _ in range(4):
                append(log, bytes(1400))


@pytest.mark.parametrize("kind", ["frames", "batch", "segments"])
def test_a_tail_torn_at_any_byte_is_cut(acknowledged: Log, kind: str) -> None:
    kept, start = lsns(acknowledged), acknowledged.position
    tails(acknowledged, kind)
    medium, stop = acknowledged.pool.medium, acknowledged.position
    tail = frames(medium)[len(kept) :]
    step = 1 if kind != "segments" else 53
    for cut in range(start, stop, step):
        torn = copy_of(medium)
        for index in range(12):  # headers of segments are durable before anything points to them
            if (begin := 4096 + index * PAGE_SEGMENT + 64) - 64 + PAGE_SEGMENT > cut:
                torn.data[max(cut, begin) : begin - 64 + PAGE_SEGMENT] = 0
        whole, replay = found(torn)
        assert whole == kept + survivors(tail, cut, torn)
        torn_again = make_log(torn)  # and the log goes on from there
        append(torn_again, b"new")
        torn_again.flush(torn_again.lsn)
        assert found(torn)[0][: len(whole)] == whole
        assert replay.segments == torn_again.pool.taken[: len(replay.segments)]


def survivors(tail: list[Frame], cut: int, torn: MemoryMedium) -> list[int]:
    """Of a tail, whole batches before the cut; what is cut off and was zero anyway counts as there."""
    kept: list[int] = []
    batch: list[int] = []
    for frame in tail:
        whole = frame.body + frame.length <= cut or any(f.offset == frame.offset for f in frames(torn))
        if not whole:
            break
        batch.append(frame.lsn)
        if not frame.flags & 1:
            kept, batch = kept + batch, []
    return kept


def test_a_hole_in_the_tail_is_the_end_too(acknowledged: Log) -> None:
    kept = lsns(acknowledged)
    tails(acknowledged, "frames")
    medium = acknowledged.pool.medium
    first = frames(medium)[len(kept)]
    for at in range(first.offset, first.end, 8):
        torn = copy_of(medium)
        torn.data[at : at + 8] ^= 0x5A
        expected = kept if at < first.body + first.length else lsns(acknowledged)
        assert found(torn)[0] == expected


def test_what_was_cut_never_comes_back(acknowledged: Log) -> None:
    """n is lost, n+1 reached the medium; a new n of the same size is acknowledged; the old n+1 fits behind it."""
    for _ in range(2):
        append(acknowledged, b"twins")
    medium = copy_of(acknowledged.pool.medium)
    lost, revenant = frames(medium)[-2:]
    medium.data[lost.offset : lost.end] = 0
    log = make_log(medium)  # its OPEN frame takes the place of the lost one, which had the same size
    assert log.position == revenant.offset
    assert frames(medium)[-1] == revenant, "whole, and exactly where the next frame belongs"
    assert revenant.lsn not in found(medium)[0]
    append(log, b"twins")
    assert log.position == revenant.end
    log.flush(log.lsn)
    assert revenant.lsn not in found(medium)[0]


def proofs() -> list[str]:
    return ["a later frame", "a mark", "the next epoch", "a frame in the next segment"]


def prove(log: Log, how: str) -> MemoryMedium:
    """Have something written that says that all so far is durable."""
    if how == "a later frame":
        append(log)
    elif how == "a mark":
        log.mark()
    elif how == "the next epoch":
        log = make_log(copy_of(log.pool.medium))
        append(log)
    else:
        for _ in range(3):
            append(log, bytes(1500))
    log.flush(log.lsn)
    assert isinstance(log.pool.medium, MemoryMedium)
    return log.pool.medium


@pytest.mark.parametrize("how", proofs())
def test_damage_to_any_byte_that_was_acknowledged_is_told_with_its_place(acknowledged: Log, how: str) -> None:
    acked = frames(acknowledged.pool.medium)
    medium = prove(acknowledged, how)
    for frame in acked[1:]:
        for at in range(frame.offset, frame.body + frame.length):
            medium.data[at] ^= 0x10
            with pytest.raises(CorruptionError, match=f"damaged at offset {frame.offset:,} .*frame {frame.lsn} is"):
                found(medium)
            medium.data[at] ^= 0x10
    found(medium)


def test_a_damaged_first_frame_is_no_empty_pool(acknowledged: Log) -> None:
    medium = acknowledged.pool.medium
    medium.data[4096 + 64 + 20] ^= 1
    with pytest.raises(CorruptionError, match=f"frame {1 << 40} is missing there"):
        found(medium)


def test_without_a_proof_the_last_frame_is_a_torn_one(acknowledged: Log) -> None:
    """The window that remains: nothing behind the last frame says that it was durable."""
    medium = acknowledged.pool.medium
    medium.data[frames(medium)[-1].body] ^= 1
    assert found(medium)[0] == lsns(acknowledged)[: len(found(medium)[0])]
    assert len(found(medium)[0]) == 3


@pytest.mark.parametrize("page", range(1, 6))
def test_a_zeroed_page_in_the_middle_ends_no_log_in_silence(page: int) -> None:
    log = make_log(small_medium(12, PAGE_SEGMENT))
    for _ in range(20):
        append(log, bytes(900))
        log.flush(log.lsn)
    assert log.position > 4096 * 7
    medium = log.pool.medium
    medium.data[4096 * page : 4096 * (page + 1)] = 0
    with pytest.raises(CorruptionError, match="damaged"):
        found(medium)


def test_damaged_segment_headers_are_told() -> None:
    log = make_log(small_medium(12, PAGE_SEGMENT))
    for _ in range(12):
        append(log, bytes(900))
        log.flush(log.lsn)
    medium = log.pool.medium
    for index in log.pool.taken:
        for at in range(8, 32):  # what the checksum covers and means something; the rest is reserved
            damaged = copy_of(medium)
            damaged.data[log.pool.start(index) + at] ^= 1
            with pytest.raises(CorruptionError, match=f"the header of segment {index} "):
                found(damaged)


def test_the_only_segment_with_a_damaged_header_is_no_empty_pool(acknowledged: Log) -> None:
    medium = acknowledged.pool.medium
    for index in acknowledged.pool.generations:
        medium.data[acknowledged.pool.start(index)] ^= 1
    with pytest.raises(CorruptionError, match=r"segment 0 .* but valid frames follow it"):
        found(medium)


def test_a_damaged_header_of_a_segment_not_used_yet_is_none(acknowledged: Log) -> None:
    medium = acknowledged.pool.medium
    assert acknowledged.pool.preallocate_segment()
    unused = max(acknowledged.pool.generations)
    assert unused not in acknowledged.pool.taken
    medium.data[acknowledged.pool.start(unused)] ^= 1
    assert found(medium)[0] == lsns(acknowledged)


def test_a_copy_of_the_log_in_a_value_is_not_the_log(acknowledged: Log) -> None:
    medium = acknowledged.pool.medium
    copied = medium.data[4096 + 64 : acknowledged.position].tobytes()
    append(acknowledged, copied)
    append(acknowledged, bytes(33) + copied)
    acknowledged.flush(acknowledged.lsn)
    torn = copy_of(medium)
    last = frames(torn)[-1]
    torn.data[last.offset] ^= 1
    assert found(torn)[0] == lsns(acknowledged)[:-1] or len(found(torn)[0]) == 5


def test_a_writer_beside_a_reader_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was missing is there at the second look, with frames that prove it: the reader sees a prefix."""
    log = make_log(small_medium(12, PAGE_SEGMENT))
    append(log)
    log.flush(log.lsn)
    medium = copy_of(log.pool.medium)
    before = lsns(log)
    replay = Replay(Pool.load(medium))
    for _ in range(6):
        append(log, bytes(900))
        log.flush(log.lsn)

    def meanwhile(*place: int) -> None:
        medium.data[:] = log.pool.medium.data
        return type(replay)._prove_end(replay, *place)

    monkeypatch.setattr(replay, "_prove_end", meanwhile)
    assert [frame.lsn for frame in replay] == before


def test_a_segment_taken_beside_a_reader_is_no_damage() -> None:
    log = make_log(small_medium(13, PAGE_SEGMENT))
    pool = Pool.load(log.pool.medium)
    for _ in range(30):
        append(log, bytes(900))
        log.flush(log.lsn)
    assert len(log.pool.taken) > 6
    assert [frame.lsn for frame in Replay(pool)] == lsns(log)


def test_next_frames_belong_to_the_batch_they_stand_in(acknowledged: Log) -> None:
    with acknowledged.batch():
        for _ in range(4):
            append(acknowledged, bytes(1400))
    kinds = [(frame.kind, frame.flags) for frame in frames(acknowledged.pool.medium)][4:]
    assert (Kind.NEXT, 1) in kinds
    assert kinds[-1] == (Kind.PART, 0)
