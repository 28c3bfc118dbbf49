"""The deduplicating repository: packs, index, disk maps, restore points, keys. FORMAT.md says what lies on disk."""
