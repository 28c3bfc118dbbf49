"""The demonstration's own means: a proof that fails is seen, and a day of work is told block by block."""

import subprocess
from pathlib import Path

import pytest

from demo.guest import DISK_BYTES, a_day_of_work, check_file_system, make_disk
from demo.report import Report


def test_a_proof_that_does_not_hold_is_counted_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.proof(True, "the sky is blue")
    report.proof(False, "the disks are equal", otherwise="they differ")
    assert (report.proved, report.failed) == (1, 1)
    assert "✗ NOT SO: the disks are equal (they differ)" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_day_of_work_writes_turns_yesterday_s_disk_into_today_s(tmp_path: Path) -> None:
    disk, yesterday = tmp_path / "disk.raw", tmp_path / "yesterday.raw"
    make_disk(disk)
    subprocess.run(["cp", "--sparse=always", disk, yesterday], check=True)
    writes = list(a_day_of_work(disk))
    with yesterday.open("r+b") as raw:
        for offset, data in writes:
            raw.seek(offset)
            raw.write(data)
    assert yesterday.read_bytes() == disk.read_bytes()
    assert 5 << 20 < sum(len(data) for _, data in writes) < 8 << 20
    assert disk.stat().st_size == DISK_BYTES
    assert check_file_system(disk)


def test_a_damaged_file_system_is_not_called_right(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    assert not check_file_system(disk)
