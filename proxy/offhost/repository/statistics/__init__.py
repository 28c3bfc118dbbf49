"""What a repository holds and how it grows, in numbers."""
