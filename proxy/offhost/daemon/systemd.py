"""What a service tells systemd, as sd_notify(3) has it. Without systemd, nothing is sent."""

import asyncio
import os
import socket


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


async def beat() -> None:
    """Tell systemd's watchdog, where it asks for it, that the event loop turns. Ends when cancelled."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
    while interval_s > 0:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
