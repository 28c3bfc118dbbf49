"""The SQLite file: how it is opened, brought up to date, and what its errors mean.

Owns: pragmas, transactions, migrations, translation of errors. Does not own: queries (database).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from offhost.errors import StateError

BUSY_TIMEOUT_MS = 20_000
"""How long a writer waits for another process's; a transaction here takes milliseconds."""

_LOST = "the catalog holds the history of runs only, no backups: move the file away and offhost begins a new one"


def open_engine(path: Path) -> Engine:
    """Connect to the database, made and brought up to date if need be.

    Raises: StateError when it is damaged, cannot be written, or is from a newer offhost.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    try:
        with translated(path):
            path.touch(mode=0o600)
            _migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the database's errors into ours."""
    try:
        yield
    except CommandError as error:
        raise StateError(f"the catalog {path} is from a newer offhost", hint=f"upgrade, or else: {_LOST}") from error
    except SQLAlchemyError as error:
        raise StateError(f"the catalog {path} cannot be used: {getattr(error, 'orig', error)}", hint=_LOST) from error
    except OSError as error:
        raise StateError(f"the catalog {path} cannot be used: {error.strerror}", hint=None) from error


def _prepare(connection: Any, _record: object) -> None:
    # The driver begins transactions of its own accord, but not before DDL or reads; we begin them ourselves.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # Immediate: a transaction that reads and then writes would otherwise fail, not wait, when another wrote meanwhile.
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", "offhost.catalog:migrations")
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
