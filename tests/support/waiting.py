"""Waiting for what other tasks, threads or processes bring about."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, timeout_s: float = 20) -> None:
    """Return once `condition` holds.

    Raises: TimeoutError.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens outside this loop's reach
            await asyncio.sleep(0.005)
