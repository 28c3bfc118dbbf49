"""Restore points: their manifests and the maps of their disks."""
