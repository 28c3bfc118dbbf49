"""The secrets of a repository, and what they are closed with."""
