"""One module for each step; `down_revision` says which comes before."""
