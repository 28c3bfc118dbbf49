"""Where a repository's objects lie: a local directory."""
