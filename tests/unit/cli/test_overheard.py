"""What rooms log while a command runs: warnings are told once, and nothing twice."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from offhost.cli.overheard import tell_warnings


@contextmanager
def nobody_listening() -> Iterator[None]:
    """Logging as it is in a new process; within a test, since pytest listens from its beginning to its end."""
    level = logging.root.level
    with mock.patch.object(logging.root, "handlers", []):
        yield
    logging.root.setLevel(level)


def test_a_warning_is_told_and_what_is_less_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with nobody_listening():
        tell_warnings()
        logging.getLogger("offhost.snapshot.removal").warning("the snapshot of %s stays", "web")
        logging.getLogger("offhost.snapshot.removal").info("nobody needs to know")
    assert capsys.readouterr() == ("", "warning: the snapshot of web stays\n")


def test_what_stands_on_the_run_s_record_and_what_libraries_say_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with nobody_listening():
        tell_warnings()
        logging.getLogger("offhost.jobs.runner").error("VM web failed")
        logging.getLogger("urllib3").warning("Retrying")
    assert capsys.readouterr() == ("", "")


def test_a_fault_of_offhost_itself_is_told_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with nobody_listening():
        tell_warnings()
        try:
            raise ValueError("what nobody thought of")
        except ValueError:
            logging.getLogger("offhost.backup.vm").exception("the backup of %s failed unexpectedly", "web")
    said = capsys.readouterr().err
    assert said.startswith("the backup of web failed unexpectedly\nTraceback")
    assert "test_overheard.py" in said


def test_everything_is_told_to_whoever_looks_for_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OFFHOST_DEBUG", "1")
    with nobody_listening():
        tell_warnings()
        logging.getLogger("offhost.jobs.runner").info("begun")
    assert "begun" in capsys.readouterr().err


def test_logging_that_somebody_looks_after_is_left_alone() -> None:
    with nobody_listening():
        handler = logging.NullHandler()
        logging.root.addHandler(handler)
        tell_warnings()
        assert logging.root.handlers == [handler]
