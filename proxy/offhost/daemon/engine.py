"""The engine that backs up VMs, built from the configuration."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from offhost.clock import Clock
from offhost.config import Configuration
from offhost.errors import UsageError
from offhost.events import Events
from offhost.jobs.engine import VmEngine
from offhost.state import State

EngineScope: TypeAlias = Callable[[Configuration, State, Events, Clock], AbstractAsyncContextManager[VmEngine]]
"""Builds the engine; leaving the scope closes what it opened."""


@asynccontextmanager
async def vm_engine(
    configuration: Configuration, state: State, events: Events, clock: Clock
) -> AsyncIterator[VmEngine]:
    """The engine over the configuration's vCenters, datastores and repositories."""
    raise UsageError("this build cannot back up VMs")
    yield
