"""What was committed is what the snapshot froze, whatever happens to the VM, and nothing is left behind."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from faults.campaign import LONG, TIMES, Tally
from faults.truth import STEPS, Site, Truth, impatient
from offhost.chunking.workers import SpanWorkers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 600)]

SAME_LIVES = 1500 if LONG else 8 * TIMES
OTHER_LIVES = 1500 if LONG else 3 * TIMES

SETTINGS = settings(
    stateful_step_count=40 if LONG else 12,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


@pytest.fixture(autouse=True)
def site(
    vcenter_binary: None, workers: SpanWorkers, fast_folder: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    impatient(monkeypatch)
    told: Counter[str] = Counter()
    monkeypatch.setattr(Truth, "site", Site(workers, fast_folder, told), raising=False)
    yield
    print(dict(sorted(told.items())))
    for what in told.keys() & set(STEPS):
        tally.count(f"a VM's life: {what}", told[what], 0)
    tally.count("a VM's life: calls fail", told["runs with failing calls"], 0)
    tally.count("a VM's life: backups, each checked", 0, told["backups"])
    tally.count("a VM's life: restore points compared", 0, told["points compared"])


def test_the_same_lives_of_vms() -> None:
    run_state_machine_as_test(Truth, settings=settings(SETTINGS, max_examples=SAME_LIVES, derandomize=True))


@pytest.mark.skipif(
    TIMES == 1 and not LONG, reason="draws lives anew, whose failures take long to look at: `make faults` does it"
)
def test_other_lives_each_time() -> None:
    """The seed is printed when it fails."""

    class Another(Truth):
        """Seeded for itself."""

    number = random.SystemRandom().randrange(1 << 32)
    print(f"seed {number}")
    run_state_machine_as_test(seed(number)(Another), settings=settings(SETTINGS, max_examples=OTHER_LIVES))
