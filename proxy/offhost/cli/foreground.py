"""A coroutine as the whole of a command: it ends when done, interrupted, or told to terminate.

Owns: the event loop of a command and what signals mean to it. Does not own: the clean-up, which the coroutine does
when it is cancelled.
"""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def foreground(command: Coroutine[Any, Any, T]) -> T:
    """Run `command` to its end; SIGTERM cancels it as Ctrl-C does, and its clean-up is waited for.

    Raises: KeyboardInterrupt or CancelledError when it was cut short; what `command` raises otherwise.
    """

    async def terminable() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await command

    return asyncio.run(terminable())
