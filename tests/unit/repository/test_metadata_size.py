"""What a day of changes costs besides the changed chunks themselves."""

from pathlib import Path

import pytest

from bench.metadata import LIMIT, days

pytestmark = pytest.mark.slow


def test_no_daily_incremental_spends_more_than_the_promised_share_on_metadata(tmp_path: Path) -> None:
    """Long enough for every span's chain of patches to end, and for those ends not to fall on one day."""
    shares = [day.share for day in days(tmp_path / "repository", spans=96, data_share=1.0, count=18)]
    assert max(shares) <= LIMIT
    assert max(shares[9:]) > 1.2 * shares[0], "no keyframe came: the days do not show what they are to show"


def test_scattered_data_on_a_large_disk_costs_no_more(tmp_path: Path) -> None:
    shares = [day.share for day in days(tmp_path / "repository", spans=4096, data_share=0.01, count=3)]
    assert max(shares) <= LIMIT
