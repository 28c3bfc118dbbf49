"""The log is one line an event, whatever is in it."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from offhost.daemon.logs import log_to_stderr
from offhost.daemon.systemd import notify


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back after the test."""
    logger = logging.getLogger()
    before = (logger.handlers[:], logger.level)
    yield logger
    logger.handlers[:], level = before
    logger.setLevel(level)


def test_a_line_says_when_how_grave_and_what(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    logging.getLogger("offhost.test").warning("%s did\nthis", "web01", extra={"run": "12"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("timestamp=20")
    assert line.endswith(r'level=warning event="web01 did\nthis" run=12')


def test_a_traceback_is_on_its_event_s_line(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        logging.getLogger("offhost.test").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: oops" in line


def test_nothing_in_a_name_steers_the_terminal_the_log_is_read_on(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    logging.getLogger("offhost.test").warning("VM %s", "a\x1b[2J\x9b31m\r\u202eb", extra={"vm": "\x1b]0;x\x07"})
    (line,) = capsys.readouterr().err.split("\n")[:-1]
    assert line.isprintable()
    assert r"a\x1b[2J\x9b31m\r\u202eb" in line


def test_the_journal_is_told_priorities_and_keeps_its_own_time(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    log_to_stderr()
    logging.getLogger("offhost.test").error("failed")
    logging.getLogger("offhost.test").info("done")
    assert capsys.readouterr().err.splitlines() == ["<3>level=error event=failed", "<6>level=info event=done"]


def test_systemd_is_told_where_it_listens_and_nobody_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0offhost-test-notify")
        heard.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@offhost-test-notify")
        notify("READY=1", "STATUS=2 jobs")
        assert heard.recv(100) == b"READY=1\nSTATUS=2 jobs"
