"""Collection: what no restore point needs is deleted."""
