"""How long restore points are kept: what expires, what somebody forgets or pins."""
