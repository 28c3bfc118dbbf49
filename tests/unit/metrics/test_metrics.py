"""What happened is what is counted."""

from datetime import UTC, datetime

from offhost.events import DiskProgress, Event, Events, RunEnded, RunStarted, TrackingLied, VmEnded
from offhost.ids import RunId
from offhost.metrics import Metrics

RUN, AT = RunId("1" * 32), datetime(2026, 1, 1, tzinfo=UTC)


def exposed(*happened: Event) -> set[str]:
    events, metrics = Events(), Metrics("0.1.0")
    events.subscribe(metrics.listen)
    for event in happened:
        events.publish(event)
    return set(metrics.exposition().decode().splitlines())


def test_a_run_is_under_way_until_it_has_ended() -> None:
    assert 'offhost_runs_under_way{job="nightly"} 1.0' in exposed(RunStarted(RUN, "nightly", AT))
    ended = exposed(RunStarted(RUN, "nightly", AT), RunEnded(RUN, "nightly", AT, "warning"))
    assert 'offhost_runs_under_way{job="nightly"} 0.0' in ended
    assert 'offhost_runs_total{job="nightly",state="warning"} 1.0' in ended
    (stamp,) = (line for line in ended if line.startswith("offhost_run_last_end_timestamp_seconds{"))
    assert float(stamp.split()[-1]) == AT.timestamp()


def test_bytes_are_summed_over_vms_by_what_was_done_with_them() -> None:
    def ended(ok: bool) -> VmEnded:
        return VmEnded(RUN, "nightly", vm="web01", ok=ok, read_bytes=10, stored_bytes=4, host_bytes=0)

    lines = exposed(ended(True), ended(True), ended(False))
    assert 'offhost_vms_total{job="nightly",result="ok"} 2.0' in lines
    assert 'offhost_vms_total{job="nightly",result="failed"} 1.0' in lines
    assert 'offhost_bytes_total{job="nightly",what="read"} 30.0' in lines
    assert 'offhost_bytes_total{job="nightly",what="host"} 0.0' in lines


def test_lies_of_change_tracking_are_counted() -> None:
    lie = TrackingLied(RUN, "nightly", vm="web01", disk="Hard disk 1", unreported_bytes=65536)
    assert 'offhost_change_tracking_lies_total{job="nightly"} 2.0' in exposed(lie, lie)


def test_progress_makes_no_series() -> None:
    before = exposed()
    assert exposed(DiskProgress(RUN, "nightly", "web01", "disk0", 1, 2)) == before


def test_two_registries_do_not_share_anything() -> None:
    one, other = Metrics("1"), Metrics("2")
    one.listen(RunStarted(RUN, "nightly", AT))
    assert b"nightly" not in other.exposition()
