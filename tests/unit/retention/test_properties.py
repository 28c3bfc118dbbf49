"""What holds for every policy and every history."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from offhost.retention import Decision, Point, RetentionPolicy, apply

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
COUNTS = ("keep_last", "hourly", "daily", "weekly", "monthly", "yearly")
TAGS = st.frozensets(st.sampled_from(["audit", "release"]))

zones = st.sampled_from([UTC, ZoneInfo("Europe/Zurich"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/St_Johns")])
counts = st.integers(0, 4)
ages = st.none() | st.integers(1, 2000).map(lambda hours: timedelta(hours=hours))
policies = st.builds(
    RetentionPolicy,
    **dict.fromkeys(COUNTS, counts),
    within=ages,
    tags=TAGS,
    after_vm_deleted=ages,
)
moments = (
    st.integers(-500, 500).map(lambda hours: NOW + timedelta(hours=hours))
    | st.datetimes(timezones=st.just(UTC))
    | st.integers(0, 48).map(lambda hours: datetime(2026, 3, 28, tzinfo=UTC) + timedelta(hours=hours))
)


@st.composite
def histories(draw: st.DrawFn) -> list[Point]:
    """Points whose sequence and time mostly agree, and sometimes do not; all readable, in any order."""
    times = draw(st.lists(moments, min_size=1, max_size=25))
    ordered = sorted(times) if draw(st.booleans()) else times
    points = [
        Point(
            id=str(number),
            sequence=number // draw(st.sampled_from([1, 1, 1, 2])),
            time=time,
            tags=draw(TAGS),
            pins=draw(st.sampled_from([(), (), (), ("why",)])),
            damaged=draw(st.sampled_from([False, False, False, True])),
        )
        for number, time in enumerate(ordered)
    ]
    return draw(st.permutations(points))


def kept(decisions: list[Decision]) -> set[str]:
    return {decision.point.id for decision in decisions if decision.keep}


@given(policies, histories(), zones, st.booleans())
def test_deciding_again_on_what_was_kept_keeps_all_of_it(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, deleted: bool
) -> None:
    once = kept(apply(policy, points, now=NOW, timezone=zone, deleted=deleted))
    again = apply(policy, [point for point in points if point.id in once], now=NOW, timezone=zone, deleted=deleted)
    assert kept(again) == once


@given(policies, histories(), zones, st.data())
def test_expiring_in_part_changes_nothing_about_the_rest(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, data: st.DataObject
) -> None:
    """As when it was interrupted, or another one expires at the same time."""
    decisions = apply(policy, points, now=NOW, timezone=zone)
    expired = sorted({point.id for point in points} - kept(decisions))
    gone = set(data.draw(st.lists(st.sampled_from(expired)))) if expired else set()
    rest = [point for point in points if point.id not in gone]
    assert kept(apply(policy, rest, now=NOW, timezone=zone)) == kept(decisions)


@given(policies, histories(), zones, st.sampled_from(COUNTS), st.integers(1, 3))
def test_a_policy_that_asks_for_more_never_keeps_less(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, rule: str, more: int
) -> None:
    if policy.keeps_everything:  # the first rule is what lets anything expire
        return
    larger = replace(policy, **{rule: getattr(policy, rule) + more})
    less = kept(apply(policy, points, now=NOW, timezone=zone))
    assert less <= kept(apply(larger, points, now=NOW, timezone=zone))


@given(policies, histories(), zones, ages, TAGS)
def test_nor_does_one_with_a_longer_age_or_more_tags(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, age: timedelta | None, tags: frozenset[str]
) -> None:
    if policy.keeps_everything:
        return
    longer = max(policy.within or timedelta(), age or timedelta()) or None
    larger = replace(policy, within=longer, tags=policy.tags | tags)
    less = kept(apply(policy, points, now=NOW, timezone=zone))
    assert less <= kept(apply(larger, points, now=NOW, timezone=zone))


@given(policies, histories(), zones)
def test_a_vm_that_exists_is_never_left_without_its_latest_point(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo
) -> None:
    remain = kept(apply(policy, points, now=NOW, timezone=zone))
    assert max(points, key=lambda point: point.order).id in remain
    whole = [point for point in points if not point.damaged]
    if whole:
        assert max(whole, key=lambda point: point.order).id in remain


@given(policies, histories(), zones, st.booleans())
def test_what_is_pinned_is_kept(policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, deleted: bool) -> None:
    pinned = {point.id for point in points if point.pins}
    assert pinned <= kept(apply(policy, points, now=NOW, timezone=zone, deleted=deleted))


@given(policies, histories(), zones, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, deleted: bool, random: Random
) -> None:
    before = apply(policy, points, now=NOW, timezone=zone, deleted=deleted)
    random.shuffle(points)
    assert apply(policy, points, now=NOW, timezone=zone, deleted=deleted) == before


@given(policies, histories(), zones, st.lists(st.integers(2, 1000), max_size=5))
def test_points_from_the_future_take_no_place_of_a_real_one(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, hours_ahead: list[int]
) -> None:
    ahead = [Point(f"ahead {n}", 1000 + n, NOW + timedelta(hours=hours)) for n, hours in enumerate(hours_ahead)]
    alone = kept(apply(policy, points, now=NOW, timezone=zone))
    assert alone | {point.id for point in ahead} == kept(apply(policy, [*points, *ahead], now=NOW, timezone=zone))


@given(policies, histories(), zones, st.sets(st.integers(0, 24)))
def test_a_damaged_point_takes_no_place_of_a_whole_one(
    policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, broken: set[int]
) -> None:
    """What is kept of the whole ones is at least what would be kept were the others not there."""
    history = [replace(point, damaged=int(point.id) in broken) for point in points]
    whole = [point for point in history if not point.damaged]
    assert kept(apply(policy, whole, now=NOW, timezone=zone)) <= kept(apply(policy, history, now=NOW, timezone=zone))


@given(policies, histories(), zones, st.booleans())
def test_every_decision_says_why(policy: RetentionPolicy, points: list[Point], zone: ZoneInfo, deleted: bool) -> None:
    decisions = apply(policy, points, now=NOW, timezone=zone, deleted=deleted)
    assert [decision.point for decision in decisions] == sorted(points, key=lambda point: point.order)
    assert all(decision.reasons and all(decision.reasons) for decision in decisions)
