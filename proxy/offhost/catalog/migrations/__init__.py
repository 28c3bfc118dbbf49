"""The steps from an empty file to today's schema, one module each in `versions`. A released step never changes."""
