"""Bringing a catalog's schema up to date: the only user of alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Engine

from offhost.catalog.schema import LOST
from offhost.errors import StateError


def migrate(engine: Engine, path: Path) -> None:
    """Take every step that is missing, all in one transaction; another process's steps are waited for.

    Raises: StateError when the file is from a newer offhost.
    """
    config = Config()
    config.set_main_option("script_location", "offhost.catalog:migrations")
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StateError(f"the catalog {path} is from a newer offhost", hint=f"upgrade, or else: {LOST}") from error
