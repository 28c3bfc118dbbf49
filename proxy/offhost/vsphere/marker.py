"""How a VM that offhost itself made, to verify, restore or accept, is told from the VMs of its users.

Owns: the mark, which stands at the beginning of the VM's annotation: there administrators see it, and it is read for
thousands of VMs at the cost of a line each, where extraConfig would be read whole. Does not own: what becomes of such
VMs, but that no job backs them up (jobs.selection).
"""

import re

from offhost.ids import InstallationId, RunId

_MARK = re.compile(r"offhost (verification|instant restore|acceptance): installation [0-9a-f]{32} run [0-9a-f]{32}\b")


def annotation(purpose: str, installation: InstallationId, run: RunId) -> str:
    """What the annotation of a VM says that is made for a `verification`, an `instant restore` or an `acceptance`."""
    mark = f"offhost {purpose}: installation {installation} run {run}"
    assert _MARK.fullmatch(mark), f"no purpose of ours: {purpose}"
    return f"{mark}. Removed when that ends, and never backed up; to keep it, delete this line first."


def made_for(annotation: str) -> str | None:
    """What offhost made a VM for, whichever installation did; None for everybody else's."""
    found = _MARK.match(annotation)
    return found[1] if found else None
