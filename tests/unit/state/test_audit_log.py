"""The audit log: whole lines from whoever writes at the same time, in bounded room."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from offhost.state import AuditLog


def test_lines_come_back_in_the_order_they_were_written(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    assert list(log.lines()) == []
    for line in ("one", "two", "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf"):
        log.append(line)
    assert list(log.lines()) == ["one", "two", "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf"]


def test_it_is_for_its_owner_only(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    log.append("one")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_old_parts_go_and_the_latest_lines_stay(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", part_bytes=100)
    for number in range(1000):
        log.append(f"line {number:04}")
    kept = list(log.lines())
    assert kept == [f"line {number:04}" for number in range(1000 - len(kept), 1000)]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 8 * 110
    assert len(kept) > 70


def test_many_writers_at_once_lose_nothing_and_mix_nothing(tmp_path: Path) -> None:
    lines = {f"{number} " + "x" * 50 for number in range(400)}
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda line: AuditLog(tmp_path / "audit.log", part_bytes=6000).append(line), lines))
    kept = list(AuditLog(tmp_path / "audit.log").lines())
    assert sorted(kept) == sorted(lines)
