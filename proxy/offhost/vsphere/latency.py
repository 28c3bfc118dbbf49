"""How long datastores take to answer, as the hosts measured it last.

Owns: which counters say so. Does not own: what is done about it.
"""

import posixpath
from collections.abc import Sequence
from typing import Any

from pyVmomi import vim

from offhost.vsphere.properties import moref, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Vm

_COUNTERS = ("datastore.totalReadLatency.average", "datastore.totalWriteLatency.average")
"""Milliseconds, by host and datastore ("vSphere Performance Counters", group datastore)."""
REAL_TIME_S = 20
"""How often a host measures anew."""


class LatencyMeter:
    """Asks one endpoint's performance manager; what its counters are called there is looked up once."""

    def __init__(self, vsphere: VSphere) -> None:
        self._vsphere = vsphere
        self._counters: tuple[int, ...] | None = None

    async def of(self, vm: Vm) -> dict[str, int]:
        """For each datastore of a VM, by name, the milliseconds that its host waits for reads or writes there,
        whichever is longer. A datastore that the host has no measurement of is left out.

        Raises: VSphereError.
        """
        return await self._vsphere.read(lambda live: self._measured(live, vm), f"measuring the latency under {vm.name}")

    def _measured(self, live: Live, vm: Vm) -> dict[str, int]:
        row = properties(live, vim.VirtualMachine, [live.vm(vm.moref)], ["runtime.host", "datastore"])[vm.moref]
        manager = live.content.perfManager
        if manager is None or "runtime.host" not in row:
            return {}
        if self._counters is None:
            self._counters = _counters(live, manager)
        stores = properties(live, vim.Datastore, row.get("datastore", []), ["summary.name", "summary.url"])
        names = {_instance(str(store["summary.url"])): str(store["summary.name"]) for store in stores.values()}
        if not names or not self._counters:
            return {}  # to ask for none means all there are
        return _longest(manager.QueryPerf([_query(row["runtime.host"], self._counters, list(names))]), names)


def _counters(live: Live, manager: Any) -> tuple[int, ...]:
    known = properties(live, vim.PerformanceManager, [manager], ["perfCounter"])[moref(manager)]["perfCounter"]
    ids = {f"{one.groupInfo.key}.{one.nameInfo.key}.{one.rollupType}": int(one.key) for one in known}
    return tuple(ids[name] for name in _COUNTERS if name in ids)


def _query(host: Any, counters: Sequence[int], instances: Sequence[str]) -> Any:
    metrics = [
        vim.PerformanceManager.MetricId(counterId=counter, instance=instance)
        for counter in counters
        for instance in instances
    ]
    return vim.PerformanceManager.QuerySpec(
        entity=host, metricId=metrics, intervalId=REAL_TIME_S, maxSample=1, format="normal"
    )


def _longest(answers: Sequence[Any], names: dict[str, str]) -> dict[str, int]:
    longest: dict[str, int] = {}
    for series in (series for answer in answers for series in answer.value):
        name = names.get(series.id.instance)
        if name is not None and series.value and series.value[-1] >= 0:  # -1: not measured
            longest[name] = max(longest.get(name, 0), int(series.value[-1]))
    return longest


def _instance(url: str) -> str:
    """What the counters call a datastore: the last part of its URL."""
    return posixpath.basename(url.rstrip("/"))
