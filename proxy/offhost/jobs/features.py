"""Which of vSphere's features a job uses: what it needs an account's privileges for. Pure."""

from offhost.jobs.spec import JobSpec
from offhost.vsphere.privileges import Feature


def features_of(job: JobSpec) -> tuple[Feature, ...]:
    """The features that a job's runs use; none for one that asks no vCenter."""
    match job.kind:
        case "host":
            return (Feature.INVENTORY, Feature.HOST)
        case "directory":
            switches = job.folder is not None and job.folder.switching_off is not None
            return (Feature.INVENTORY, Feature.POWER_OFF) if switches else ()
        case "image":
            used = {
                Feature.INVENTORY: True,
                Feature.IMAGE: True,
                Feature.CHANGE_TRACKING: job.mode != "full",
                Feature.QUIESCING: job.quiesce.policy != "off",
                Feature.CONSOLIDATION: job.consolidate,
                Feature.FOLDER_READING: "https" in job.transports,
                Feature.LATENCY: job.datastore_latency_ms is not None,
                Feature.TAGS: True,
            }
            return tuple(feature for feature, is_used in used.items() if is_used)
