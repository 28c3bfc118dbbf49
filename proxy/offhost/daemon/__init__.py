"""The composition root: everything built once from the configuration, and the daemon's life.

Owns: who gets what, the order of starting and stopping, signals, systemd, the log's form. Does not own: any decision
about backups.
"""
