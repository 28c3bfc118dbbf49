"""The SQLite file: how it is opened, brought up to date, and what its errors mean.

Owns: pragmas, transactions, translation of errors. Does not own: queries (database), the steps between versions
of the schema (migrations).
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError

from offhost.catalog.schema import LOST, VERSION
from offhost.errors import StateError
from offhost.ids import random_id

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
            _create(path)
            if _version(engine) != VERSION:
                # alembic takes as long to load as all the rest of a command, and nearly never has anything to do
                from offhost.catalog.migrating import migrate  # noqa: PLC0415 - loaded only where it is needed, see above

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
    _turn_on_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _turn_on_wal(cursor: Any) -> None:
    """Only the very first connection changes anything; those beside it are refused at once instead of waiting."""
    for _ in range(BUSY_TIMEOUT_MS // 20):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.02)
    cursor.execute("PRAGMA journal_mode = WAL")


def _create(path: Path) -> None:
    """Make the empty file, for its mode's sake, under another name.

    Opening and closing the database itself would drop the locks of every connection this process has to it (fcntl(2)).
    """
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{random_id()}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


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
