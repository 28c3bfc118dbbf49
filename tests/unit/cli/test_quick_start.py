"""What a command does not wait for: libraries take longer to load than most commands take to run."""

import subprocess
import sys
from pathlib import Path

from support.repositories import PASSPHRASE, make

HEAVY = {"asyncio", "fastcdc", "lz4", "numpy", "pydantic", "rich"}

RUN = "import sys; from offhost.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"


def loaded(*command: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *command],
        env={"OFFHOST_PASSPHRASE": PASSPHRASE.text},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stdout.split())


def test_listing_restore_points_loads_nothing_that_handles_chunks_or_waits_for_a_network(tmp_path: Path) -> None:
    repository = str(make(tmp_path / "repository"))
    modules = loaded("--repo", repository, "points", "list")
    assert "offhost.repository.points.listing" in modules
    assert not modules & HEAVY


def test_help_loads_no_part_of_a_repository() -> None:
    assert not any(module.startswith("offhost.repository") for module in loaded("--help"))
