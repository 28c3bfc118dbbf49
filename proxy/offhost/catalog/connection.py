"""The SQLite file: how it is opened, brought up to date, and what its errors mean.

Owns: pragmas, transactions, translation of errors. Does not own: queries (database), the steps between versions
of the schema (migrations).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError

from offhost.catalog.schema import LOST, VERSION
from offhost.errors import StateError

BUSY_TIMEOUT_MS = 20_000
"""How long a writer waits for another process's; a transaction here takes milliseconds."""


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
            if _version(engine) != VERSION:
                # alembic takes as long to load as all the rest of a command, and nearly never has anything to do.
                from offhost.catalog.migrating import migrate  # noqa: PLC0415

                migrate(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the database's errors into ours."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StateError(f"the catalog {path} cannot be used: {getattr(error, 'orig', error)}", hint=LOST) from error
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


def _version(engine: Engine) -> str | None:
    """The version of the file's schema; None when it has none."""
    with engine.execution_options(reads_only=True).begin() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return found
