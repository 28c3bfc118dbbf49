"""The acceptance of a vCenter: the whole life of a throw-away VM, and what was seen of it."""
