"""The small objects of a repository: sealed, put once, never changed."""
