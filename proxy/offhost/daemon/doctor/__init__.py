"""What keeps this proxy from doing its jobs, and the mend: looked at without a daemon, and changing nothing."""

from offhost.daemon.doctor.doctor import examined
from offhost.daemon.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examined"]
