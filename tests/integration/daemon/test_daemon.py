"""The daemon as systemd and administrators meet it: a process, its signals, and the command line beside it."""

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offhost.catalog import Catalog
from offhost.ids import RunId
from offhost.state import State

Start = Callable[..., Any]
Started = Callable[..., "subprocess.Popen[str]"]
Offhost = Callable[..., "subprocess.CompletedProcess[str]"]


def get(state: State, path: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{state.daemon_address()}{path}", timeout=10) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def begin(state: State) -> None:
    """Have the daemon begin a run of the job."""
    url = f"{state.daemon_address()}/api/v1/jobs/nightly/run"
    asked = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
    urllib.request.urlopen(asked, timeout=10).close()


@pytest.mark.narrow
def test_a_daemon_is_ready_when_it_answers_and_stops_when_told(daemon: Start, state: State) -> None:
    one = daemon()
    one.ready()
    assert get(state, "/healthz") == {"status": "ok"}
    one.process.terminate()
    code, out, err = one.ended()
    assert code == 0
    assert out.splitlines()[-1] == "engine closed"
    assert "leftover: snapshot of a dead run on web01" in err
    assert err.splitlines()[-1].endswith("event=stopped")
    assert state.daemon_address() is None


def test_a_vcenter_that_does_not_answer_keeps_the_daemon_neither_from_starting_nor_from_stopping(
    daemon: Start, state: State, offhost: Offhost
) -> None:
    one = daemon("mute")
    one.ready()
    assert offhost("jobs", "run", "nightly").returncode == 0
    one.process.terminate()
    assert one.ended()[0] == 0


def test_systemd_s_watchdog_is_fed_to_the_end_of_the_clean_up(daemon: Start, state: State) -> None:
    one = daemon("hold")
    one.ready()
    assert [one.told(), one.told()] == ["WATCHDOG=1", "WATCHDOG=1"]
    begin(state)
    assert {one.line(), one.line()} == {"began web01", "began web02"}
    one.process.terminate()
    while "STOPPING=1" not in one.told():
        pass
    assert [one.told(), one.told()] == ["WATCHDOG=1", "WATCHDOG=1"]


def test_a_second_daemon_on_one_state_directory_is_refused(daemon: Start, offhost: Offhost) -> None:
    daemon().ready()
    second = offhost("serve")
    assert second.returncode == 2
    assert "a daemon is already running" in second.stderr
    assert "hint: " in second.stderr


def test_a_port_that_is_taken_ends_the_start_in_words(daemon: Start, file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(file.read_text().replace("port: 0", f"port: {port}"))
        code, _, err = daemon().ended()
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in err


def test_sigterm_cancels_a_run_and_waits_for_its_clean_up(daemon: Start, state: State, offhost: Offhost) -> None:
    one = daemon("hold")
    one.ready()
    begin(state)
    assert {one.line(), one.line()} == {"began web01", "began web02"}
    one.process.terminate()
    code, out, _ = one.ended()
    assert code == 0
    assert set(out.splitlines()) == {"cleaned up web01", "cleaned up web02", "engine closed"}
    (run,) = json.loads(offhost("runs", "list", "--json").stdout)
    assert run["state"] == "cancelled"


def test_a_second_sigterm_ends_at_once_and_whoever_looks_next_closes_the_record(
    daemon: Start, offhost: Offhost, started: Started
) -> None:
    one = daemon("hold")
    one.ready()
    with started("jobs", "run", "nightly", "--json") as following:
        assert {one.line(), one.line()} == {"began web01", "began web02"}
        os.kill(one.process.pid, signal.SIGTERM)
        while "STOPPING=1" not in one.told():
            pass
        os.kill(one.process.pid, signal.SIGTERM)
        assert one.ended()[0] == 128 + signal.SIGTERM
        out, _ = following.communicate(timeout=20)
        assert following.returncode == 1
    followed = json.loads(out)
    assert (followed["state"], followed["problem"]["code"]) == ("failed", "interrupted")
    (run,) = json.loads(offhost("runs", "list", "--json").stdout)
    assert (run["id"], run["state"]) == (followed["id"], "failed")


def test_jobs_run_has_the_daemon_do_it_and_ends_as_the_run_does(daemon: Start, offhost: Offhost) -> None:
    one = daemon()
    one.ready()
    done = offhost("jobs", "run", "nightly")
    assert done.returncode == 0, done.stderr
    assert "web01: restore point" in done.stdout
    assert "0 B through an ESX host" in done.stdout
    shown = json.loads(offhost("jobs", "run", "nightly", "--json").stdout)
    assert (shown["state"], shown["trigger"]) == ("success", "rest")
    listed = json.loads(offhost("jobs", "list", "--json").stdout)
    assert listed[0]["last"]["id"] == shown["id"]
    assert json.loads(offhost("runs", "show", shown["id"][:8], "--json").stdout) == shown


def test_ctrl_c_on_jobs_run_cancels_the_daemon_s_run(daemon: Start, started: Started) -> None:
    one = daemon("hold")
    one.ready()
    with started("jobs", "run", "nightly", "--json") as following:
        assert {one.line(), one.line()} == {"began web01", "began web02"}
        following.send_signal(signal.SIGINT)
        out, _ = following.communicate(timeout=20)
        assert following.returncode == 130
        assert json.loads(out)["state"] == "cancelled"
    assert {one.line(), one.line()} == {"cleaned up web01", "cleaned up web02"}


def test_a_job_s_limits_and_metrics_are_those_of_the_process(daemon: Start, state: State, offhost: Offhost) -> None:
    daemon().ready()
    offhost("jobs", "run", "nightly")
    with urllib.request.urlopen(f"{state.daemon_address()}/metrics", timeout=10) as answer:
        exposed = answer.read().decode()
    assert 'offhost_runs_total{job="nightly",state="success"} 1.0' in exposed
    assert 'offhost_bytes_total{job="nightly",what="host"} 0.0' in exposed


def test_a_run_another_process_still_executes_is_left_open_at_start(daemon: Start, state: State) -> None:
    catalog = Catalog.open(state.catalog)
    living, dead = RunId("a" * 32), RunId("d" * 32)
    for run_id in (living, dead):
        catalog.add_run(run_id, job="nightly", trigger="cli", started="2026-01-01")
    with state.claim_run(living):
        daemon().ready()
        assert (catalog.run(living).state, catalog.run(dead).state) == ("running", "failed")
    catalog.close()


@pytest.mark.parametrize(
    "arguments", [["jobs", "run", "weekly"], ["jobs", "show", "weekly"], ["jobs", "plan", "weekly"]]
)
def test_an_unknown_job_is_a_usage_error_with_the_jobs_there_are(offhost: Offhost, arguments: list[str]) -> None:
    done = offhost(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no job `weekly`\nhint: there are: nightly\n"


@pytest.mark.narrow
def test_check_tells_every_mistake_on_a_line_of_its_own(offhost: Offhost, file: Path) -> None:
    (file.parent / "jobs.d" / "nightly.yaml").write_text("job: nightly\nkind: files\n")
    done = offhost("check")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        "error: jobs.d/nightly.yaml:1:1: repository: is missing",
        "error: jobs.d/nightly.yaml:2:7: kind: `files` is not supported yet",
    ]
    mistakes = json.loads(offhost("check", "--json").stdout)["error"]["mistakes"]
    assert len(mistakes) == 2


def test_check_follows_secrets_and_does_not_show_them(offhost: Offhost, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = offhost("check")
    assert refused.returncode == 2
    assert "{env VC_PASSWORD}: the variable is not set" in refused.stderr
    monkeypatch.setenv("VC_PASSWORD", "s3cret")
    monkeypatch.setenv("REPO_PASSPHRASE", "s3cret")
    done = offhost("check")
    assert done.returncode == 0
    assert "is right, and so are its jobs: nightly" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.narrow
def test_lists_work_without_a_daemon(offhost: Offhost) -> None:
    listed = json.loads(offhost("jobs", "list", "--json").stdout)
    assert (listed[0]["job"], listed[0]["last"]) == ("nightly", None)
    assert listed[0]["next"][10:13] == "T22"
    assert offhost("runs", "list").stdout == ""
    assert offhost("runs", "show", "ff").returncode == 2
