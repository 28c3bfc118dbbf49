"""`offhost serve` and `offhost check`: the daemon, and its configuration."""

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import say, say_json


@click.command()
@click.pass_obj
def serve(invocation: Invocation) -> None:
    """Run the daemon in the foreground, as its systemd unit does; SIGTERM or Ctrl-C stops it.

    A first signal cancels the runs and waits for their clean-up, a second one ends at once.
    """
    import asyncio

    from offhost.daemon.logs import log_to_stderr
    from offhost.daemon.serve import serve as serving

    configuration = invocation.configuration()
    log_to_stderr()
    asyncio.run(serving(configuration))


@click.command()
@json_option
@click.pass_obj
def check(invocation: Invocation) -> None:
    """Check the configuration files, and that every secret they refer to can be read by this user."""
    from offhost.daemon.unlocking import unlock_described

    configuration = invocation.configuration()
    for vcenter in configuration.vcenters.values():
        vcenter.password.resolve()
    for repository in configuration.repositories.values():
        unlock_described(repository)
    jobs = [job.job for job in configuration.jobs]
    if invocation.json:
        say_json({"file": str(configuration.file), "jobs": jobs})
    else:
        say(f"{configuration.file} is right, and so are its jobs: {', '.join(jobs) or 'none yet'}")
