"""What a job backs up one by one, as far as running it goes: a VM, a VM's folder, an ESX host."""

from typing import Protocol

from offhost.ids import VmId


class Subject(Protocol):
    """Anything with restore points of its own."""

    @property
    def id(self) -> VmId:
        """Whose points they are; claimed while a run works on it."""
        ...

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def datastores(self) -> tuple[str, ...]:
        """The datastores whose slots a backup of it takes."""
        ...

    @property
    def host(self) -> str:
        """The ESX host whose slot a backup of it takes; empty for none."""
        ...
