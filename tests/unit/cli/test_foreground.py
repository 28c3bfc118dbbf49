"""A coroutine as a command: signals cancel it, and its clean-up is waited for."""

import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import asyncio
    from offhost.cli.foreground import foreground

    async def command():
        print("began", flush=True)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            print("cleaned up", flush=True)

    try:
        foreground(command())
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("cancelled", flush=True)
""")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_and_the_clean_up_is_waited_for(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(number)
        assert process.stdout.read() == "cleaned up\ncancelled\n"
