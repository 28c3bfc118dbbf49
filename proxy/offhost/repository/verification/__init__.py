"""Verification: what is damaged, whom it harms, and how it is mended."""
