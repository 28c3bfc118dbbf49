"""What a service tells systemd, as sd_notify(3) has it. Without systemd, nothing is sent."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1`. That systemd cannot be told is no reason to fail, nor to wait."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1))
        except OSError:
            return


@contextmanager
def beating() -> Iterator[None]:
    """Tell systemd's watchdog, where it asks for it, that the event loop turns, for as long as the scope lasts."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
    if interval_s <= 0:
        yield
        return
    loop = asyncio.get_running_loop()
    following: asyncio.TimerHandle

    def beat() -> None:
        nonlocal following
        notify("WATCHDOG=1")
        following = loop.call_later(interval_s, beat)

    following = loop.call_later(0, beat)
    try:
        yield
    finally:
        following.cancel()
