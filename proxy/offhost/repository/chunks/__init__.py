"""Chunks: in packs, found by the index, stored once."""
