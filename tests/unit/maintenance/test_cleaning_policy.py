"""Which segments a pass empties."""

from __future__ import annotations

from pmkv.maintenance.cleaning_policy import MIN_WIN, Candidate, benefit, choose_victims

SIZE = 1000


def chosen(candidates: list[Candidate], room: int = 10 * SIZE, wanted: int | None = None) -> list[int]:
    return [one.index for one in choose_victims(candidates, SIZE, room, wanted, MIN_WIN)]


def test_what_is_all_dead_comes_first_and_needs_no_room() -> None:
    assert chosen([Candidate(1, 500, 1), Candidate(2, 0, 1)], room=0) == [2]


def test_what_gives_back_less_than_a_twentieth_is_left_alone() -> None:
    assert chosen([Candidate(1, 951, 9), Candidate(2, 950, 9)]) == [2]


def test_what_is_dead_or_old_goes_before_what_lives_or_is_young() -> None:
    assert chosen([Candidate(1, 800, 5), Candidate(2, 300, 5), Candidate(3, 300, 50)]) == [3, 2, 1]
    assert benefit(Candidate(1, 500, 9), SIZE) > benefit(Candidate(1, 500, 8), SIZE)


def test_a_pass_takes_no_more_than_is_wanted_and_fits() -> None:
    half = [Candidate(i, 500, 1) for i in range(8)]
    assert len(chosen(half, wanted=2)) == 4
    assert len(chosen(half, room=1200)) == 2
    assert chosen([Candidate(1, 700, 9), Candidate(2, 600, 1)], room=650) == [2], "a smaller one may fit"


def test_age_does_not_count_where_little_room_is_left() -> None:
    old, young = Candidate(1, 900, 90), Candidate(2, 700, 1)
    assert chosen([old, young], room=3 * SIZE) == [1, 2]
    assert chosen([old, young], room=3 * SIZE - 1) == [2, 1]
