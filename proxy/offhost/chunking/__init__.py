"""Cut, identify, compress: what turns the bytes of a disk or a file into chunks. Pure CPU, synchronous, no I/O."""
