"""Identity and claims: told across processes, and never stale."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offhost.errors import Conflict, StateError
from offhost.ids import RunId, VmId
from offhost.state import State

RUN, OTHER = RunId("1" * 32), RunId("2" * 32)
VM = VmId("vcenter/web01")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state")


@pytest.fixture
def holder(state: State) -> Iterator["subprocess.Popen[str]"]:
    """Another process, which holds run 1, the VM and the daemon's claim until it is killed."""
    program = textwrap.dedent(f"""
        from pathlib import Path
        from offhost.state import State
        state = State.open(Path({str(state.path)!r}))
        run, vm, daemon = state.claim_run({RUN!r}), state.claim_vm({VM!r}, {RUN!r}), state.claim_daemon()
        daemon.note("http://127.0.0.1:8006")
        print("held", flush=True)
        input()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_an_installation_keeps_its_identity(state: State) -> None:
    assert State.open(state.path).installation == state.installation


def test_processes_that_open_a_new_directory_at_once_agree_on_one_identity(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(State.open, [tmp_path / "state"] * 8))
    assert len({state.installation for state in opened}) == 1
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "installation",
        "jobs",
        "power",
        "runs",
        "vms",
    ]


def test_nobody_else_may_read_the_state(state: State) -> None:
    with state.claim_run(RUN), state.claim_vm(VM, RUN), state.claim_daemon():
        for path in [state.path, *state.path.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_damaged_identity_is_refused_rather_than_replaced(state: State) -> None:
    (state.path / "installation").write_text("")
    with pytest.raises(StateError, match="damaged") as caught:
        State.open(state.path)
    assert caught.value.hint


def test_a_directory_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="Not a directory"):
        State.open(tmp_path / "file" / "state")


def test_a_run_is_alive_while_its_claim_is_held_and_dead_after(state: State) -> None:
    with state.claim_run(RUN):
        assert not state.is_dead(RUN)
    assert state.is_dead(RUN)
    assert not list((state.path / "runs").iterdir())


def test_a_run_nobody_ever_claimed_is_dead(state: State) -> None:
    assert state.is_dead(OTHER)


def test_a_killed_process_s_claims_fall_at_once(state: State, holder: "subprocess.Popen[str]") -> None:
    assert not state.is_dead(RUN)
    kill(holder)
    assert state.is_dead(RUN)
    state.claim_vm(VM, OTHER).release()
    state.claim_daemon().release()
    state.forget_run(RUN)
    assert not list((state.path / "runs").iterdir())


def test_a_living_run_is_not_forgotten(state: State, holder: "subprocess.Popen[str]") -> None:
    state.forget_run(RUN)
    assert not state.is_dead(RUN)


def test_a_vm_is_worked_on_by_one_run_and_the_second_is_told_which(
    state: State, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(Conflict, match=RUN):
        state.claim_vm(VM, OTHER)
    state.claim_vm(VmId("vcenter/web02"), OTHER).release()


def test_a_job_has_one_run_at_a_time(state: State) -> None:
    with state.claim_job("nightly", RUN), pytest.raises(Conflict, match=f"job nightly is being executed by run {RUN}"):
        state.claim_job("nightly", OTHER)
    state.claim_job("nightly", OTHER).release()


@pytest.mark.parametrize("name", ["../../elsewhere", "vc/web01", "x" * 5000, "\n"])
def test_a_claim_never_leaves_its_folder_whatever_is_claimed(state: State, name: str) -> None:
    with state.claim_job(name, RUN), state.claim_vm(VmId(name), RUN):
        assert len(list((state.path / "jobs").iterdir())) == len(list((state.path / "vms").iterdir())) == 1


def test_two_runs_of_one_process_do_not_share_a_vm_either(state: State) -> None:
    with state.claim_vm(VM, RUN), pytest.raises(Conflict):
        state.claim_vm(VM, OTHER)
    state.claim_vm(VM, OTHER).release()


def test_a_second_daemon_is_refused_and_others_learn_where_the_first_listens(
    state: State, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(Conflict, match="already running"):
        state.claim_daemon()
    assert state.daemon_address() == "http://127.0.0.1:8006"
    kill(holder)
    assert state.daemon_address() is None


def test_asking_about_a_claim_never_keeps_anyone_from_taking_it(state: State) -> None:
    def ask(_: int) -> None:
        state.daemon_address()

    with ThreadPoolExecutor(4) as threads:
        asking = threads.map(ask, range(400))
        for _ in range(200):
            state.claim_daemon().release()
        list(asking)


def test_many_who_want_one_vm_never_hold_it_together(state: State) -> None:
    held: list[int] = []

    def attempt(_: int) -> None:
        try:
            with state.claim_vm(VM, RUN):
                held.append(1)
                assert len(held) == 1
                held.pop()
        except Conflict:
            pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(attempt, range(400)))


@pytest.mark.parametrize("name", ["../installation", "", "x" * 32, "A" * 32])
def test_what_is_no_run_id_is_never_used_as_a_file_name(state: State, name: str) -> None:
    with pytest.raises(StateError):
        state.is_dead(RunId(name))


def test_a_claim_is_not_inherited_by_programs_that_are_started(state: State) -> None:
    with state.claim_run(RUN):
        assert not any(os.get_inheritable(int(number)) for number in os.listdir("/proc/self/fd") if _is_lock(number))


def _is_lock(number: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}").endswith(".lock")
    except OSError:
        return False


def test_a_claim_that_could_not_be_noted_on_a_full_disk_is_not_held(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    open_before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr("offhost.state.claims.os.pwrite", full)
        for _ in range(2):
            with pytest.raises(StateError, match="No space left"):
                state.claim_job("nightly", RUN)
    assert len(os.listdir("/proc/self/fd")) == open_before
    state.claim_job("nightly", RUN).release()


def test_a_claim_whose_file_cannot_be_removed_is_let_go_all_the_same(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = state.claim_vm(VM, RUN)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", read_only)
        with pytest.raises(OSError, match="Read-only"):
            held.release()
    state.claim_vm(VM, OTHER).release()
