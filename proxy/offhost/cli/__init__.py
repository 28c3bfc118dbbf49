"""The command line: parses, calls, prints. No decision about backups is made here."""
