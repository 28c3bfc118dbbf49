"""Jobs: when they run, what may run at once, and the execution of one.

Owns: schedule (the only home of APScheduler), slots, the runner and the record it keeps. Does not own: how a VM is
backed up (an engine, handed in), nor what the YAML looks like (config).
"""
