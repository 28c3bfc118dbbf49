"""vSphere as the rest of offhost sees it: plain values in, plain values out.

Owns: the session, what is asked of vCenter or of a standalone host, the translation of its faults; the only home of
pyVmomi. Does not own: when a snapshot is taken and removed (`snapshot`), nor how disks are read (`transport`).
"""
