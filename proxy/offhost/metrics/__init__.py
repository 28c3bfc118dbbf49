"""What a monitoring system asks: counters and gauges in Prometheus' text format.

Owns: the metrics' names and how events change them. Does not own: where they are served (api).
"""

from offhost.metrics.registry import CONTENT_TYPE, Metrics

__all__ = ["CONTENT_TYPE", "Metrics"]
