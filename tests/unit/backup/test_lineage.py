"""Which points are copied, which are there already, and where a copy stands: from the manifests alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from offhost.backup.lineage import Relation, copied_origin
from offhost.errors import PackCorrupt
from offhost.ids import SessionId, VmId
from offhost.repository.points.manifest import Manifest

HERE, THERE = "aa", "bb"


def point(number: int, *, sequence: int | None = None, **values: Any) -> Manifest:
    """A backup of day `number`."""
    return replace(
        Manifest(
            id=SessionId(f"{number:032x}"),
            vm_id=VmId("vc/vm"),
            vm_name="vm",
            sequence=number if sequence is None else sequence,
            predecessor=None,
            time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number),
            kind="full",
            consistency="crash",
            disks=(),
        ),
        **values,
    )


def copy(of: Manifest, *, sequence: int, missed: tuple[Manifest, ...] = (), source: str = HERE) -> Manifest:
    """A copy of a point."""
    origin = copied_origin(source, of, [one.id for one in missed])
    return replace(of, id=SessionId(f"c{of.id[1:]}"), sequence=sequence, origin=origin)


POINTS = [point(number) for number in range(1, 6)]
ONE, TWO, THREE, FOUR, FIVE = POINTS


def relation(*copies: Manifest, points: list[Manifest] = POINTS, **values: Any) -> Relation:
    return Relation(HERE, THERE, points, sorted(copies, key=lambda one: one.order), **values)


def test_without_a_copy_all_are_wanted() -> None:
    assert relation().wanted(missed_too=True) == POINTS
    assert relation().due(FIVE) == [FIVE], "a job leaves history to whoever asks for it"


def test_what_is_newer_than_the_newest_copy_is_wanted() -> None:
    there = relation(copy(ONE, sequence=1), copy(TWO, sequence=2))
    assert there.wanted(missed_too=True) == there.due(FIVE) == [THREE, FOUR, FIVE]


def test_what_is_older_than_the_newest_copy_was_forgotten_unless_it_was_missed() -> None:
    there = relation(copy(FOUR, sequence=1, missed=(TWO,)))
    assert there.wanted(missed_too=True) == [TWO, FIVE]
    assert there.due(FIVE) == [FIVE]
    assert there.missed_before(FIVE) == [TWO.id]


def test_a_copy_records_every_earlier_point_that_was_never_copied() -> None:
    assert relation().missed_before(THREE) == [ONE.id, TWO.id]
    assert relation(copy(ONE, sequence=1)).missed_before(FOUR) == [TWO.id, THREE.id]


def test_the_newest_copy_stays_forgotten_while_that_is_known() -> None:
    forgotten = copy(FIVE, sequence=2)
    assert relation(copy(FOUR, sequence=1), forgotten=[forgotten]).wanted(missed_too=True) == []


def test_a_point_is_at_home_in_the_repository_it_came_from() -> None:
    returned = [copy(one, sequence=one.sequence, source=THERE) for one in (ONE, TWO)]
    there = relation(ONE, points=returned)
    assert there.copies_of(returned[0]) == [ONE]
    assert there.wanted(missed_too=True) == [returned[1]]
    assert relation(ONE, points=returned, gone={TWO.id}).wanted(missed_too=True) == []


def test_a_copy_of_a_copy_is_the_same_point() -> None:
    by_way_of = replace(copy(copy(ONE, sequence=7), sequence=1, source="cc"), id=SessionId("d" * 32))
    assert relation(by_way_of).copies_of(ONE) == [by_way_of]
    assert relation(by_way_of).wanted(missed_too=True) == [TWO, THREE, FOUR, FIVE]


def test_of_two_copies_all_choose_the_same() -> None:
    first, second = (replace(copy(ONE, sequence=1), id=SessionId(letter * 32)) for letter in "ef")
    assert relation(first, second).copies_of(ONE) == relation(second, first).copies_of(ONE) == [first, second]


def test_the_nearest_earlier_point_at_both_places_is_built_on() -> None:
    copies = copy(ONE, sequence=1), copy(THREE, sequence=2), copy(FIVE, sequence=3)
    twins = relation(*copies).nearest_twins(FOUR)
    assert twins is not None
    assert (twins.original, twins.copy) == (THREE, copies[1])
    later = relation(copies[1], copies[2]).nearest_twins(TWO)
    assert later is not None
    assert later.original == THREE
    assert relation().nearest_twins(ONE) is None


@pytest.mark.parametrize(
    ("copied", "sequence"), [((), 1), ((ONE, TWO), 3), ((ONE, FOUR), 1), ((FOUR, FIVE), 1)], ids=str
)
def test_a_copy_stands_where_its_point_stood(copied: tuple[Manifest, ...], sequence: int) -> None:
    copies = [copy(one, sequence=at) for at, one in enumerate(copied, 1)]
    made = copy(THREE, sequence=relation(*copies).sequence_for(THREE))
    assert made.sequence == sequence
    assert [one.time for one in sorted([*copies, made], key=lambda one: one.order)] == sorted(
        one.time for one in [*copies, made]
    )


def test_a_copy_does_not_become_the_latest_among_newer_backups_made_there() -> None:
    own = point(4, sequence=9)
    assert relation(own).sequence_for(THREE) == 9
    assert relation(own).sequence_for(FIVE) == 10


def test_a_clock_that_jumped_at_the_source_changes_no_order() -> None:
    late = point(3, time=datetime(2031, 1, 1, tzinfo=UTC))
    copies = copy(TWO, sequence=1), copy(late, sequence=2)
    assert relation(*copies, points=[ONE, TWO, late, FOUR]).sequence_for(FOUR) == 3


@pytest.mark.parametrize(
    "origin", [{"kind": "copy"}, {"kind": "copy", "repository": "aa", "point": "1", "sequence": "x", "of": {}}]
)
def test_an_origin_that_is_none_is_refused(origin: dict[str, Any]) -> None:
    with pytest.raises(PackCorrupt, match="origin"):
        relation(replace(ONE, origin=origin)).wanted(missed_too=True)


def test_an_origin_without_an_end_is_refused() -> None:
    origin: dict[str, Any] = {}
    for _ in range(100):
        origin = copied_origin(HERE, replace(ONE, origin=origin), ())
    with pytest.raises(PackCorrupt, match="more than"):
        relation(replace(ONE, origin=origin)).wanted(missed_too=True)


def test_tags_come_along() -> None:
    assert copied_origin(HERE, point(1, origin={"tags": ["before-upgrade"]}), ())["tags"] == ["before-upgrade"]
