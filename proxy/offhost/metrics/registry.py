"""A registry of its own, fed by events. Names of VMs are no labels: a thousand of them would be a thousand series."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from offhost.events import Event, RunEnded, RunStarted, TrackingLied, VmEnded

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """A listener on events. Counts from the process's start, as Prometheus expects."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        about = Gauge("offhost_info", "The version that runs.", ["version"], registry=self._registry)
        about.labels(version).set(1)
        self._under_way = Gauge("offhost_runs_under_way", "Runs under way.", ["job"], registry=self._registry)
        self._ended = Counter("offhost_runs", "Runs that ended, by state.", ["job", "state"], registry=self._registry)
        self._last_end = Gauge(
            "offhost_run_last_end_timestamp_seconds",
            "When a run last ended, by its state.",
            ["job", "state"],
            registry=self._registry,
        )
        self._vms = Counter("offhost_vms", "VMs done with, by result.", ["job", "result"], registry=self._registry)
        self._bytes = Counter(
            "offhost_bytes",
            "Bytes read from sources, stored in repositories, and moved through ESX hosts.",
            ["job", "what"],
            registry=self._registry,
        )

        self._lies = Counter(
            "offhost_change_tracking_lies",
            "Disks of which an audit found changes that change tracking had not reported.",
            ["job"],
            registry=self._registry,
        )

    def listen(self, event: Event) -> None:
        """Take in what happened."""
        match event:
            case RunStarted():
                self._under_way.labels(event.job).inc()
            case RunEnded():
                self._under_way.labels(event.job).dec()
                self._ended.labels(event.job, event.state).inc()
                self._last_end.labels(event.job, event.state).set(event.at.timestamp())
            case TrackingLied():
                self._lies.labels(event.job).inc()
            case VmEnded():
                self._vms.labels(event.job, "ok" if event.ok else "failed").inc()
                self._bytes.labels(event.job, "read").inc(event.read_bytes)
                self._bytes.labels(event.job, "stored").inc(event.stored_bytes)
                self._bytes.labels(event.job, "host").inc(event.host_bytes)

    def exposition(self) -> bytes:
        """All metrics as `CONTENT_TYPE`."""
        return generate_latest(self._registry)
