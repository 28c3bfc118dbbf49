"""The record of what offhost changes in vSphere: every call that changes something, for whom, and with what outcome.

Owns: that no such call goes out unrecorded: each kind of connection (SOAP, `/folder`, REST) puts its calls in
`recorded`, which refuses one that nobody has announced with a `Changing`. Does not own: where the records are kept
(whoever hands in a `ChangeLog`).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from pyVmomi import SoapStubAdapter, vim, vmodl

from offhost.errors import OffhostError, ReadFailed, SessionLost
from offhost.ids import random_id
from offhost.vsphere.faults import translated
from offhost.vsphere.values import Vm

READING = frozenset(
    {
        "ContinueRetrievePropertiesEx",
        "CreateCollectorForEvents",
        "CreateContainerView",
        "CurrentTime",
        "DestroyCollector",
        "DestroyView",
        "Fetch",
        "FetchUserPrivilegeOnEntities",
        "HasPrivilegeOnEntities",
        "Login",
        "Logout",
        "QueryChangedDiskAreas",
        "QueryPerf",
        "ReadNextEvents",
        "RetrievePropertiesEx",
        "RetrieveServiceContent",
        "SetCollectorPageSize",
    }
)
"""The SOAP methods, of those that are called, that leave what administrators see as it is."""

Outcome: TypeAlias = Literal["asked", "done", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Actor:
    """What vSphere is changed for: a purpose, and where there is one the run and its job."""

    purpose: str
    run: str | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One call that changes something; it is told twice, before it goes out (`asked`) and when it is over."""

    id: str
    """The same both times."""
    vcenter: str
    account: str
    actor: Actor | None
    target: str
    """The VM's or host's name, or the path on a datastore."""
    vm_id: str | None
    method: str
    object: str
    """The moref that was called, or the path."""
    what: str
    outcome: Outcome
    problem: str | None = None


ChangeLog: TypeAlias = Callable[[Change], None]
"""Keeps a record; from any thread. It must not raise: a snapshot is removed even where nothing can be written down."""

_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)
_announced = threading.local()


def unlogged(_: Change) -> None:
    """The log of those who keep none."""


@contextmanager
def acting(actor: Actor, *, within_others: bool = False) -> Iterator[None]:
    """What is changed within the scope, and by tasks and threads that begin in it, is changed for this actor.

    `within_others`: for whoever acts already, if anybody does.
    """
    token = _actor.set(_actor.get() or actor if within_others else actor)
    try:
        yield
    finally:
        _actor.reset(token)


class Changing:
    """Announces, for the thread that enters it, that one thing is about to be changed.

    A task that a call has started is over only when `ended` says so; every other call is by its answer.
    """

    def __init__(self, log: ChangeLog, *, vcenter: str, account: str, what: str, of: Vm | str) -> None:
        self._log = log
        self.what = what
        self._blank = Change(
            id="",
            vcenter=vcenter,
            account=account,
            actor=_actor.get(),
            target=of if isinstance(of, str) else of.name,
            vm_id=None if isinstance(of, str) else of.id,
            method="",
            object="",
            what=what,
            outcome="asked",
        )
        self._under_way: Change | None = None

    def __enter__(self) -> Self:
        _announced.change = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _announced.change = None

    def begin(self, method: str, object_: str) -> None:
        """Tell that a call goes out now."""
        self._under_way = replace(self._blank, id=random_id(), method=method, object=object_)
        self._log(self._under_way)

    def ended(self, error: BaseException | None = None, *, told: bool = True) -> None:
        """Tell how the call that is under way, if one is, ended: well, or in an error, which the endpoint told; one
        that stands for not knowing is not `told`.
        """
        if self._under_way is None:
            return
        change, self._under_way = self._under_way, None
        if error is None:
            self._log(replace(change, outcome="done"))
        else:
            self._log(replace(change, outcome="failed" if told else "unknown", problem=self._words(error)))

    def _words(self, error: BaseException) -> str:
        """What is not said by the change itself."""
        if isinstance(error, vmodl.MethodFault):
            error = translated(error, self.what)
        return str(error).removeprefix(f"{self.what}: ") or type(error).__name__


@contextmanager
def recorded(method: str, object_: str, *, is_task: bool = False) -> Iterator[None]:
    """One call that changes something. Raises: RuntimeError, before anything went out, when nobody announced it."""
    change: Changing | None = getattr(_announced, "change", None)
    if change is None:
        raise RuntimeError(f"{method} of {object_} would change vSphere without a record of it")
    change.begin(method, object_)
    try:
        yield
    except BaseException as error:
        change.ended(error, told=_is_told(error))
        raise
    if not is_task:
        change.ended()


class RecordingStub(SoapStubAdapter):  # type: ignore[misc]  # pyVmomi is published without types
    """Puts every method that is not known to be reading into the record."""

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:  # noqa: N802, N803 - pyVmomi's
        """Call a method of a managed object."""
        if info.wsdlName in READING:
            return super().InvokeMethod(mo, info, args, outerStub)
        is_task = isinstance(info.result, type) and issubclass(info.result, vim.Task)
        with recorded(info.wsdlName, str(mo._GetMoId()), is_task=is_task):  # noqa: SLF001 - no public name for it
            return super().InvokeMethod(mo, info, args, outerStub)


def _is_told(error: BaseException) -> bool:
    """A fault and a refusal mean that it was not done; whatever else ends a call leaves that open."""
    return isinstance(error, vmodl.MethodFault) or (isinstance(error, OffhostError) and not _is_break(error))


def _is_break(error: OffhostError) -> bool:
    return isinstance(error, SessionLost | ReadFailed)
