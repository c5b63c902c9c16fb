"""Steps from one version of the tables to the next, carried out when a database is opened.

    if found(engine) != HEAD:
        upgrade(engine)                        # in one transaction: done whole, or not at all

A revision is a module `versions/vNNNN_words.py`; `revise` writes the next one from what the tables have become. Alembic
is imported when a step is due, and only then.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medserve.errors import Fault

FOLDER = Path(__file__).parent
TABLE = "alembic_version"
HEAD = max(path.name[1:5] for path in (FOLDER / "versions").glob("v*.py"))


def found(db: sa.Connection) -> str:
    """The revision of an open database; "" where it has none."""
    if not sa.inspect(db).has_table(TABLE):
        return ""
    return db.scalar(sa.text(f"SELECT version_num FROM {TABLE}")) or ""


def upgrade(db: sa.Connection, to: str = HEAD) -> None:
    """Carry out what is due, within the caller's transaction.

    Raises: Fault "database-newer": a later MedServe has written it.
    """
    from alembic.runtime.environment import EnvironmentContext

    at = found(db)
    if at > HEAD or (at and not list((FOLDER / "versions").glob(f"v{at}_*.py"))):
        raise Fault(
            "database-newer",
            f"The database has revision {at}; this MedServe knows revisions up to {HEAD}.",
            hint="Start the MedServe that wrote it, or restore a backup made with this one.",
        )
    config, script = _script()
    steps: Any = lambda now, _context: script._upgrade_revs(to, now)  # noqa: E731
    with EnvironmentContext(config, script, fn=steps, destination_rev=to) as environment:
        environment.configure(connection=db, transactional_ddl=True)
        environment.run_migrations()


def differences(db: sa.Connection, tables: sa.MetaData) -> list[Any]:
    """What the migrated database lacks, or has too much, beside the tables as the code names them."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(db, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, tables))


def revise(db: sa.Connection, tables: sa.MetaData, words: str) -> Path:
    """Write the next revision: the way from this migrated database to the tables. Read it before it is kept."""
    from alembic.autogenerate import produce_migrations, render_python_code
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(db, opts={"compare_type": True})
    made = produce_migrations(context, tables)
    assert made.upgrade_ops is not None
    body = render_python_code(made.upgrade_ops, migration_context=context, user_module_prefix=None)
    at = found(db)
    number = f"{int(at or 0) + 1:04}"
    path = FOLDER / "versions" / f"v{number}_{words.replace(' ', '_')}.py"
    before = f'"{at}"' if at else "None"
    path.write_text(
        f'"""{words.capitalize()}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f'revision = "{number}"\ndown_revision = {before}\n\n\ndef upgrade() -> None:\n    {body}\n'
    )
    return path


def _script() -> tuple[Any, Any]:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)
