"""What a mount shows late: names that the storage already has.

A network file system keeps names and attributes for some seconds. Owns: waiting for them, within bounds.
"""

import time
from collections.abc import Callable

NAME_LAG_S = 5.0
"""How long a mount is given to show a file or directory that vSphere has just made."""
_POLL_S = 0.25


def shown(look: Callable[[], bool]) -> bool:
    """Look, and look again for as long as names may lag; whether it was seen. Blocks."""
    for _ in range(int(NAME_LAG_S / _POLL_S)):
        if look():
            return True
        time.sleep(_POLL_S)
    return look()
