"""Never more at once than asked for, and everybody's turn comes."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.jobs.slots import SlotKey, Slots
from support.waiting import until

DEMANDS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), max_size=4),  # what the work needs
        st.integers(0, 3),  # how many turns of the loop it takes
        st.none() | st.integers(0, 12),  # after how many turns it is cancelled
    ),
    max_size=12,
)


@given(DEMANDS)
def test_limits_hold_everyone_ends_and_everything_is_given_back(
    demands: list[tuple[dict[str, int], int, int | None]],
) -> None:
    slots, under_way, finished = Slots(), Counter[str](), []

    async def work(number: int, limits: dict[str, int], turns: int) -> None:
        async with slots.held({(key,): limit for key, limit in limits.items()}):
            under_way.update(limits.keys())
            try:
                assert all(under_way[key] <= limit for key, limit in limits.items())
                for _ in range(turns):
                    await asyncio.sleep(0)
                finished.append(number)
            finally:
                under_way.subtract(limits.keys())

    async def cancelled_after(task: "asyncio.Task[None]", turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

    async def all_of_them() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for number, (limits, turns, cancelled) in enumerate(demands):
                task = group.create_task(work(number, limits, turns))
                if cancelled is not None:
                    group.create_task(cancelled_after(task, cancelled))

    asyncio.run(all_of_them())
    assert {number for number, demand in enumerate(demands) if demand[2] is None} <= set(finished)
    assert not slots._taken
    assert not slots._queue


async def test_work_that_waits_for_one_slot_holds_no_other() -> None:
    slots, done = Slots(), []

    async def work(name: str, limits: dict[SlotKey, int]) -> None:
        async with slots.held(limits):
            done.append(name)

    async with asyncio.TaskGroup() as group, slots.held({("proxy",): 2, ("full",): 1}):
        group.create_task(work("waits for the full datastore", {("proxy",): 2, ("full",): 1}))
        group.create_task(work("needs another one", {("proxy",): 2, ("free",): 1}))
        await until(lambda: done)
        assert done == ["needs another one"]
    assert len(done) == 2


async def test_slots_are_given_back_after_a_failure() -> None:
    slots = Slots()
    with pytest.raises(ZeroDivisionError):
        async with slots.held({("proxy",): 1}):
            raise ZeroDivisionError
    async with asyncio.timeout(1), slots.held({("proxy",): 1}):
        pass
