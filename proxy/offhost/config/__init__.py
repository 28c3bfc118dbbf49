"""The configuration: proxy.yaml and jobs.d/*.yaml, read whole or refused whole.

Owns: which keys there are, what they may hold, and where in which file a mistake is. Does not own: what the values
are used for; engines take values of their own and never see this room.
"""

from offhost.config.cron import CronLine
from offhost.config.job import Directory, Job, Quiesce, Retention, Rule, Schedule
from offhost.config.load import Configuration, load
from offhost.config.proxy import Datastore, Limits, Listen, Repository, VCenter
from offhost.config.secret import Secret

__all__ = [
    "Configuration",
    "CronLine",
    "Datastore",
    "Directory",
    "Job",
    "Limits",
    "Listen",
    "Quiesce",
    "Repository",
    "Retention",
    "Rule",
    "Schedule",
    "Secret",
    "VCenter",
    "load",
]
