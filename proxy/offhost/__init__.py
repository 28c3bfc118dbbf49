"""offhost: a backup proxy for VMware vSphere that reads snapshots without loading the hosts."""

__version__ = "0.1.0"
