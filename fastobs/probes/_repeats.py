"""Counts the statements of each request, to find those that it sends again and again."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastobs._exchange import Exchange
from fastobs._repeats import ALLOWED, REPEATED, STATEMENTS, repeat

from ._shapes import shape, shown
from ._sites import call_site, written

__all__ = ["sent"]

Key = tuple[str, str]
"""Shape and relation."""

INNER = 3
"""Frames above the hook that tells of a statement: ours, up to `call_site`."""

NO_QUERIES = frozenset(
    {"BEGIN", "COMMIT", "PRAGMA", "RELEASE", "ROLLBACK", "SAVEPOINT", "SET", "SHOW"}
)
"""They frame what is asked: ten transactions with one query each repeat the query."""


def sent(exchange: Exchange, context: Any) -> None:
    """A statement is about to be sent for an exchange.

    Args:
        exchange: An open one.
        context: SQLAlchemy's, of its execution.
    """
    if ALLOWED.get():
        return
    compiled = context.compiled
    if compiled is None:
        key = _key_of_text(context.statement)
    else:
        # SQLAlchemy keeps what it compiled, so the shape is found once.
        key = compiled.__dict__.get("_fastobs_key") or _key_of(compiled)
    if not key[0] or (key[1] and not _lazy(context)):
        return
    # What was sent before is looked up here: it is the usual case, and saves a call.
    notes = exchange.notes
    statements = None if notes is None else notes.get(STATEMENTS)
    found = None if statements is None else statements.get(key)
    if found is None:
        found = repeat(exchange, key)
        if found is None:
            return
    found.count += 1
    if found.count >= REPEATED and not found.statement:
        found.statement = shown(key[0], context.dialect.name)
        found.at = written(call_site(inner=INNER))


def _lazy(context: Any) -> bool:
    """Whether a relation is loaded for one object; selectinload and subqueryload do it for many."""
    # Only the event of Session.execute() has a public name for it, and to listen to that would make
    # every query of the ORM dearer. Without it, relations are not counted.
    options = context.execution_options.get("_sa_orm_load_options")
    return getattr(options, "_lazy_loaded_from", None) is not None


def _key_of(compiled: Any) -> Key:
    key: Key = (_shape(compiled.string or ""), _relation(compiled))
    compiled._fastobs_key = key
    return key


def _relation(compiled: Any) -> str:
    """``Order.items``, if that is what the ORM loads with it."""
    path = getattr(getattr(compiled, "compile_state", None), "current_path", None)
    if path is None or path.is_root:
        return ""
    # A path has mappers and relations in turn, and ends with the relation that is loaded.
    relation = path.path[-1]
    parent = getattr(relation, "parent", None)
    return "" if parent is None else f"{parent.class_.__name__}.{relation.key}"


@lru_cache(maxsize=100)
def _key_of_text(text: str) -> Key:
    return _shape(text), ""


def _shape(text: str) -> str:
    words = text[:100].split(None, 1)
    return "" if not words or words[0].upper() in NO_QUERIES else shape(text)
