"""One VM, or one image, one run: plan, copy, commit."""
