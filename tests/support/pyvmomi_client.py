"""A plain pyVmomi login for tests that hold the simulated vCenter to its rules, with no code of the product between.

Owns: the session, waiting for tasks, and the few calls such tests make again and again.
"""

from __future__ import annotations

import http.client
import ssl
import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from support.vcenter import SimulatedVCenter

TASK_TIMEOUT_S = 20


class PlainClient:
    """One session. Not thread-safe."""

    def __init__(self, vcenter: SimulatedVCenter) -> None:
        self._vcenter = vcenter
        self.instance = SmartConnect(
            host=vcenter.host,
            port=vcenter.port,
            user=vcenter.user,
            pwd=vcenter.password,
            disableSslCertValidation=True,
        )
        self.content = self.instance.RetrieveContent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            Disconnect(self.instance)
        except vim.fault.NotAuthenticated:
            self.instance._stub.DropConnections()

    def vm(self, moref: str) -> Any:
        """The VM, by its moref."""
        return vim.VirtualMachine(moref, self.instance._stub)

    def snapshot(self, moref: str) -> Any:
        """The snapshot, by its moref."""
        return vim.vm.Snapshot(moref, self.instance._stub)

    def wait(self, task: Any) -> Any:
        """The task's result. Raises its fault."""
        deadline = time.monotonic() + TASK_TIMEOUT_S
        while time.monotonic() < deadline:
            info = task.info
            if info.state == "success":
                return info.result
            if info.state == "error":
                raise info.error
            time.sleep(0.02)
        raise TimeoutError("the task did not end")

    def take_snapshot(self, vm: str, name: str = "s", *, quiesce: bool = False) -> Any:
        """A snapshot without memory."""
        return self.wait(self.vm(vm).CreateSnapshot_Task(name=name, description="", memory=False, quiesce=quiesce))

    def change_id(self, snapshot: Any, key: int) -> str | None:
        """The change id that the snapshot has for a disk."""
        for device in snapshot.config.hardware.device:
            if device.key == key:
                found: str | None = device.backing.changeId
                return found
        raise KeyError(key)

    def changed_areas(self, vm: str, snapshot: Any, key: int, change_id: str) -> list[tuple[int, int]]:
        """Every changed area as (start, length), call after call until the end of the disk."""
        size = next(d.capacityInBytes for d in snapshot.config.hardware.device if d.key == key)
        areas: list[tuple[int, int]] = []
        offset = 0
        while offset < size:
            answer = self.vm(vm).QueryChangedDiskAreas(snapshot, key, offset, change_id)
            areas += [(area.start, area.length) for area in answer.changedArea]
            offset = answer.startOffset + answer.length
        return areas

    def cookie(self) -> str:
        """The session's cookie, for /folder."""
        header: str = self.instance._stub.cookie
        return header.split(";", 1)[0]

    def folder(
        self,
        method: str,
        datastore: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        logged_in: bool = True,
    ) -> tuple[int, bytes]:
        """One request to /folder: status and body."""
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(self._vcenter.host, self._vcenter.port, context=context, timeout=20)
        sent = dict(headers or {})
        if logged_in:
            sent["Cookie"] = self.cookie()
        try:
            connection.request(
                method, f"/folder/{quote(path)}?dcPath=DC0&dsName={quote(datastore)}", body=body, headers=sent
            )
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()
