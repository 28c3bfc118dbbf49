"""The systemd unit is one that systemd understands, and is confined."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "deploy" / "offhost.service"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of the Debian package systemd"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, starting a program that is there."""
    text = UNIT.read_text()
    assert "ExecStart=/opt/offhost/bin/offhost " in text
    (tmp_path / "offhost.service").write_text(text.replace("/opt/offhost/bin/offhost", "/bin/true"))
    return tmp_path / "offhost.service"


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_understands_every_line(unit: Path) -> None:
    verified = analyze("verify", "--recursive-errors=yes", "--man=no", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")


def test_a_misspelt_key_would_be_noticed(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHoem="))
    assert "ProtectHoem" in analyze("verify", "--recursive-errors=yes", "--man=no", str(unit)).stderr


def test_the_daemon_is_confined(unit: Path) -> None:
    rated = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(unit))
    assert rated.returncode == 0, rated.stdout
