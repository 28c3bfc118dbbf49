"""A snapshot that is held for as long as a scope lasts, and gone afterwards.

Owns: quiesce with its fallback, creation, opening the frozen disks, the gate before commit, removal whatever happens,
what a crash left behind. Does not own: the calls themselves (`vsphere`), how bytes are read (`transport`), what is
done with them (`backup`).
"""
