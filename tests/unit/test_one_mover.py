"""Only `maquette.db.move` writes a status: a rule of the design, read off the syntax tree of every module.

Everybody may write other columns of tasks, models and image tasks, with the columns spelled out so that the rule can
be seen to hold. The testing package may, since it makes rows for tests.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import maquette

PACKAGE = Path(maquette.__file__).parent
MOVER = PACKAGE / "db" / "move.py"
GUARDED = {"tasks", "models", "image_tasks"}
RAW_WRITE = re.compile(
    r"\b(?:update|(?:insert|replace)(?:\s+or\s+\w+)?\s+into)\s+\"?(?:tasks|models|image_tasks)\b", re.IGNORECASE
)


def stray_writes(source: str) -> list[str]:
    """Each place that inserts a task, a model or an image task, may write its status, or can't be seen not to."""
    tree = ast.parse(source)
    aliases = _aliases(tree)
    explicit = {id(write): call for call, write in _valued_updates(tree, aliases)}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and RAW_WRITE.search(node.value):
            found.append(f"line {node.lineno}: SQL that writes {node.value!r}")
        if not isinstance(node, ast.Call):
            continue
        verb = _verb(node, aliases)
        if verb == "insert":
            found.append(f"line {node.lineno}: an insert")
        elif verb == "update" and id(node) not in explicit:
            found.append(f"line {node.lineno}: an update whose columns are not spelled out")
        elif verb == "update" and not _harmless(explicit[id(node)]):
            found.append(f"line {node.lineno}: an update that may write the status")
    return found


def _aliases(tree: ast.AST) -> set[str]:
    """What the module calls the guarded tables."""
    return {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "maquette.db.tables"
        for name in node.names
        if name.name in GUARDED
    }


def _is_table(node: ast.expr, aliases: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in aliases
    return isinstance(node, ast.Attribute) and node.attr in GUARDED and isinstance(node.value, ast.Name)


def _verb(node: ast.Call, aliases: set[str]) -> str | None:
    """`insert` or `update` for `insert(tasks)`, `sa.insert(tasks)`, `insert(conn, tasks)` and `tasks.insert()`."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    if name not in ("insert", "update"):
        return None
    tables = [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
    return name if any(_is_table(table, aliases) for table in tables) else None


def _valued_updates(tree: ast.AST, aliases: set[str]) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Each `.values(…)` call with the write it belongs to, in a chain such as `update(tasks).where(…).values(…)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values":
            link: ast.expr = node.func.value
            while isinstance(link, ast.Call):
                if _verb(link, aliases):
                    yield node, link
                    break
                if not isinstance(link.func, ast.Attribute):
                    break
                link = link.func.value


def _harmless(values: ast.Call) -> bool:
    """Whether every column that a `.values(…)` sets is spelled out, and none is the status."""
    named = [keyword.arg for keyword in values.keywords]
    for argument in values.args:
        if not isinstance(argument, ast.Dict):
            return False
        named += [key.value if isinstance(key, ast.Constant) else None for key in argument.keys]
    return all(isinstance(name, str) and name != "status" for name in named)


HEAD = "from sqlalchemy import insert, update\nfrom maquette.db.tables import events, image_tasks, models, tasks\n"


@pytest.mark.parametrize(
    "write",
    [
        "update(tasks).where(tasks.c.id == 1).values(status='SUCCESS')",
        "update(models).values({'status': 'SERVING', 'size': 1})",
        "update(image_tasks).values(status='TASK_STATUS_SUCCEED')",
        "update(tasks).values(**columns)",
        "update(tasks).values(columns)",
        "update(tasks).values({tasks.c.status: 'SUCCESS'})",
        "conn.execute(update(tasks).where(tasks.c.id == 1), {'status': 'SUCCESS'})",
        "tasks.update().values(status='SUCCESS')",
        "insert(tasks).values(id=1)",
        "insert(conn, models).values(id=1)",
        "models.insert().values(id=1)",
        "sqlalchemy.insert(tables.tasks).values(id=1)",
        "text('UPDATE tasks SET status = 1')",
        "text('insert into models values (1)')",
    ],
)
def test_a_stray_write_is_found(write: str) -> None:
    assert len(stray_writes(HEAD + write)) == 1


def test_a_stray_write_by_another_name_is_found() -> None:
    source = "from maquette.db.tables import tasks as jobs\nupdate(jobs).values(status='SUCCESS')"
    assert len(stray_writes(source)) == 1


@pytest.mark.parametrize(
    "write",
    [
        "update(tasks).where(tasks.c.status == 'TRAINING').values(step=1, eta_seconds=2)",
        "update(models).values({'verdict': 'rejected'})",
        "insert(events).values(status='anything')",
        "select(tasks.c.status)",
        "known.update(other)",
        "queue.insert(0, task)",
    ],
)
def test_a_harmless_line_is_left_alone(write: str) -> None:
    assert stray_writes(HEAD + write) == []


def test_only_the_mover_writes_a_status() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path != MOVER and PACKAGE / "testing" not in path.parents]
    assert len(modules) > 20
    strays = {str(path.relative_to(PACKAGE)): found for path in modules if (found := stray_writes(path.read_text()))}
    assert strays == {}
    assert stray_writes(MOVER.read_text()) != []
