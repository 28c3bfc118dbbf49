"""When the process of a session is certain to live, or to be gone."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from offhost.repository.objects.presence import lives, this_process

NOW = datetime.now(UTC)
NEW_BOOT = {"boot": "11111111-2222-3333-4444-555555555555"}


def test_this_process_lives() -> None:
    assert lives(this_process()) is True


def test_a_process_that_has_ended_is_gone() -> None:
    script = (
        "import json; from offhost.repository.objects.presence import this_process; print(json.dumps(this_process()))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert lives(json.loads(said)) is False


def test_another_process_of_the_same_number_is_another_process() -> None:
    assert lives(this_process() | {"pid_started": 1}) is False


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "elsewhere"}, {"machine": "0" * 32}, {"pid_namespace": "pid:[1]"}, {"pid": "x"}, {"boot": None}],
    ids=lambda elsewhere: next(iter(elsewhere)),
)
def test_of_a_process_elsewhere_nothing_is_certain(elsewhere: dict[str, Any]) -> None:
    assert lives(this_process() | elsewhere) is None


def test_what_began_before_this_machine_did_is_gone_and_what_began_since_is_on_a_clone() -> None:
    long_ago = (NOW - timedelta(days=9000)).isoformat()
    assert lives(this_process() | NEW_BOOT | {"started": long_ago}) is False
    assert lives(this_process() | NEW_BOOT | {"started": NOW.isoformat()}) is None
    assert lives(this_process() | NEW_BOOT) is None
    assert os.getpid() == this_process()["pid"]
