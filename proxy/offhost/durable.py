"""What makes a file's name durable. Imports nothing that takes time."""

import os
from pathlib import Path


def flush_directory(path: Path) -> None:
    """Make durable which files a directory names. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
