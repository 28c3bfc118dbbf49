"""The catalog: which runs there were and what each did, in SQLite. The only home of SQLAlchemy and alembic.

Owns: the schema, its migrations, and the queries. Does not own: backups; losing the catalog loses the history of
runs and not one restore point.
"""

from offhost.catalog.database import Catalog
from offhost.catalog.rows import CopiesRow, DiskRow, ExpiredRow, ProblemRow, RunRow, RunState, VmRow

__all__ = ["Catalog", "CopiesRow", "DiskRow", "ExpiredRow", "ProblemRow", "RunRow", "RunState", "VmRow"]
