"""What alembic runs to migrate: on the connection it was handed, in the transaction that connection is in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
