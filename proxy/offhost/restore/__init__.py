"""The ways back: a disk, a VM."""
