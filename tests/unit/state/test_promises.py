"""A promise to start a VM again outlives the process that gave it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from offhost.errors import StateError
from offhost.ids import RunId, VmId
from offhost.state import PowerPromise, State

RUN, NEXT = RunId("1" * 32), RunId("2" * 32)
VM = VmId("vcenter/web01")
UNTIL = datetime(2026, 1, 1, 22, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state")


def promise(state: State, run: RunId = RUN) -> PowerPromise:
    return state.power_promise("main", VM, "web01", run, until=UNTIL)


def test_a_promise_of_a_dead_run_is_found_by_the_next_process(state: State) -> None:
    promise(state).give()
    (found,), _ = State.open(state.path).broken_promises()
    assert (found.vcenter, found.vm_id, found.vm, found.run, found.until) == ("main", VM, "web01", RUN, UNTIL)
    found.take_back()
    assert state.broken_promises() == ([], [])


def test_a_promise_of_a_living_run_is_not_broken(state: State) -> None:
    promise(state).give()
    with state.claim_run(RUN):
        assert state.broken_promises() == ([], [])


def test_a_run_takes_over_the_promise_of_one_before_it(state: State) -> None:
    assert not promise(state).given()
    promise(state).give()
    assert not promise(state).given(), "its own"
    mine = promise(state, NEXT)
    assert mine.given()
    mine.give()
    (found,), _ = state.broken_promises()
    assert found.run == NEXT


def test_a_promise_that_was_kept_already_is_taken_back_once_more_without_harm(state: State) -> None:
    promise(state).take_back()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"vm_id": 1}',
        '{"vcenter":"","vm_id":"","vm":"","run":"","until":"x"}',
        '{"vcenter":"main","vm_id":"a","vm":"a","run":"../x","until":"2026-01-01T00:00:00Z"}',
    ],
)
def test_a_damaged_promise_is_said_and_bars_no_other(state: State, content: str) -> None:
    promise(state).give()
    (promise(state).file.parent / "0.json").write_text(content)
    (found,), (damaged,) = state.broken_promises()
    assert found.vm == "web01"
    assert "may be off" in str(damaged) or "is not the id of a run" in str(damaged)


def test_where_it_cannot_be_written_down_nothing_is_promised(state: State) -> None:
    mine = promise(state)
    mine.file.parent.rmdir()
    with pytest.raises(StateError, match="No such file"):
        mine.give()
