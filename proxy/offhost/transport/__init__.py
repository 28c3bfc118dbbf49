"""Ways to the bytes of a VM's disk: which of them can serve a disk, opening it, and writing one back.

Owns: the transports, their order of trial, the reasons of those that cannot. Does not own: the snapshot that keeps the
disk still, formats of disk images, what is read. Start at `contract`.
"""
