"""What this installation must remember and is not a cache: its identity, and who holds what at this moment.

Owns: the state directory, the installation's id, claims on runs and VMs across processes. Does not own: the history
of runs (catalog), or what a claim is for.
"""

from offhost.state.claims import Claim
from offhost.state.directory import State

__all__ = ["Claim", "State"]
