from collections.abc import Callable
from pathlib import Path

import pytest

from offhost.config import load
from offhost.errors import ConfigErrors
from support.config_files import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def refusal(files: Files) -> Callable[[], list[tuple[str, str | None]]]:
    """Loads the files, which must be refused, and returns each mistake as printed, with its hint."""

    def refused() -> list[tuple[str, str | None]]:
        with pytest.raises(ConfigErrors) as caught:
            load(files.file)
        return [(str(mistake), mistake.hint) for mistake in caught.value.mistakes]

    return refused
