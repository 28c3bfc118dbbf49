"""What this installation must remember and is not a cache: its identity, who holds what at this moment, and which VMs
it has promised to start again.

Owns: the state directory, the installation's id, claims on runs and VMs across processes. Does not own: the history
of runs (catalog), or what a claim is for.
"""

from offhost.state.audit import AuditLog
from offhost.state.claims import Claim
from offhost.state.directory import State
from offhost.state.promises import PowerPromise

__all__ = ["AuditLog", "Claim", "PowerPromise", "State"]
