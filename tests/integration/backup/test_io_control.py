"""What backups ask of the storage: as much as the limits say, shared fairly, and less while it is slow."""

import asyncio
import threading
from collections import Counter
from contextlib import suppress

import pytest

from offhost.backup.copy import DiskCopy
from offhost.backup.destination import Destination
from offhost.backup.latency import FLOOR_BYTES_PER_S, LatencyGuard, LatencyLimit, next_rate
from offhost.chunking.spans import SPAN_BYTES
from offhost.clock import SystemClock
from offhost.errors import Stopped
from offhost.extents import Extent, ExtentMap
from offhost.ids import image_id
from offhost.pacing import Pace, Paces
from offhost.vsphere import latency
from offhost.vsphere.latency import LatencyMeter
from offhost.vsphere.session import VSphere
from support.backed_up_vms import BackedUpVm
from support.repositories import noise
from support.sessions import found
from support.vcenter import DiskSpec, SimulatedVCenter

PIECE = 128 << 10


class Throttled:
    """A disk with a piece of data in each span, on storage that serves a reader slowly."""

    size_bytes = 60 * SPAN_BYTES

    def __init__(self, seed: int, read: Counter[str], job: str) -> None:
        self._data, self._read, self._job = noise(seed, PIECE), read, job

    def read_into(self, offset: int, buffer: memoryview) -> None:
        at = offset % SPAN_BYTES
        buffer[:] = self._data[at : at + len(buffer)]
        self._read[self._job] += len(buffer)

    def allocated(self) -> ExtentMap:
        starts = range(0, self.size_bytes, SPAN_BYTES)
        return ExtentMap(Extent(start, start + PIECE) for start in starts)

    def close(self) -> None:
        pass


def copying(destination: Destination, disk: Throttled, name: str, paces: Paces, stop: threading.Event) -> None:
    with suppress(Stopped), destination.repository.session(image_id(name)) as (session, _):
        DiskCopy(disk, session, destination.chunking, destination.workers, paces=paces).run(stop)


def test_jobs_share_what_may_be_read_whatever_the_number_of_their_disks(destination: Destination) -> None:
    read: Counter[str] = Counter()
    stop = threading.Event()
    proxy = Pace(2.5e6, SystemClock())
    disks = [("one disk", 0), *(("five disks", seed) for seed in range(1, 6)), ("two disks", 6), ("two disks", 7)]
    threads = [
        threading.Thread(
            target=copying,
            args=(destination, Throttled(seed, read, job), f"vm{seed}", Paces((proxy,), job), stop),
        )
        for job, seed in disks
    ]
    for thread in threads:
        thread.start()
    threads[0].join(3.0)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert sum(read.values()) < 2 * 3.0 * 2.5e6, "as a whole within the rate"
    assert max(read.values()) < 1.6 * min(read.values()), read


async def test_a_backup_reads_no_faster_than_its_bounds(
    vcenter: SimulatedVCenter, vsphere: VSphere, destination: Destination
) -> None:
    size = 3 * SPAN_BYTES
    moref = vcenter.create_vm("web", [DiskSpec(size, noise(1, size))], tools_running=True)
    web = BackedUpVm(vcenter, vsphere, destination, moref)
    clock = SystemClock()
    begun = clock.monotonic()
    report = await web.run(paces=Paces((Pace(2 * size, clock),), "nightly"))
    assert clock.monotonic() - begun > 2 / 6, "the third span waits for the two before it"
    assert web.content(report) == web.seen_by_guest()


async def test_a_slow_datastore_is_read_slower_and_then_faster_again(
    vcenter: SimulatedVCenter, vsphere: VSphere, web: BackedUpVm
) -> None:
    vm = await found(vsphere, web.moref)
    guard = LatencyGuard(LatencyLimit(LatencyMeter(vsphere), 30, look_every_s=0.05), vm, SystemClock())
    watching = asyncio.create_task(guard.watch())

    async def until(bound: bool) -> None:
        for _ in range(2000):
            if (guard.pace.bytes_per_s is not None) is bound:
                return
            await asyncio.sleep(0.01)
        pytest.fail("the bound did not change")

    await asyncio.sleep(0.3)
    await until(bound=False)  # not measured
    vcenter.set_latency("DS1", 80)
    await until(bound=True)
    assert "DS1 took up to 80 ms" in guard.slowed
    vcenter.set_latency("DS1", 10)
    await until(bound=False)
    watching.cancel()


async def test_an_endpoint_that_does_not_count_latency_is_not_asked_for_everything_it_counts(
    vcenter: SimulatedVCenter, vsphere: VSphere, web: BackedUpVm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_COUNTERS", ("datastore.noSuch.average",))
    vcenter.set_latency("DS1", 80)
    assert await LatencyMeter(vsphere).of(await found(vsphere, web.moref)) == {}
    assert "QueryPerf" not in vcenter.calls().methods


async def test_a_run_that_was_slowed_down_says_so(
    vcenter: SimulatedVCenter, vsphere: VSphere, destination: Destination
) -> None:
    moref = vcenter.create_vm("web", [DiskSpec(3 * SPAN_BYTES)], tools_running=True)
    web = BackedUpVm(vcenter, vsphere, destination, moref)
    for span in range(3):
        web.write(span * SPAN_BYTES, noise(span, 1 << 20))
    vcenter.set_latency("DS1", 45)
    half_a_second = Paces((Pace(4 << 20, SystemClock()),))
    report = await web.run(paces=half_a_second, latency=LatencyLimit(LatencyMeter(vsphere), 30, look_every_s=0.02))
    assert report.problem is None
    assert [warning for warning in report.warnings if "took up to 45 ms to answer, over the 30 ms" in warning]


@pytest.mark.parametrize(
    ("rate", "read", "over", "then"),
    [
        (None, 200e6, True, 100e6),
        (100e6, 90e6, True, 45e6),
        (100e6, 300e6, True, 50e6),
        (5e6, 5e6, True, FLOOR_BYTES_PER_S),
        (None, 0.0, True, FLOOR_BYTES_PER_S),
        (None, 200e6, False, None),
        (100e6, 100e6, False, 125e6),
        (500e6, 100e6, False, None),
        (FLOOR_BYTES_PER_S, 0.0, False, 1.25 * FLOOR_BYTES_PER_S),
    ],
)
def test_the_bound_halves_over_the_limit_and_grows_below_it(
    rate: float | None, read: float, over: bool, then: float | None
) -> None:
    assert next_rate(rate, read, over=over) == then
