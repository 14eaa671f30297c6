"""The shape of a statement: equal where only data differs, and free of data when it is shown."""

from __future__ import annotations

import pytest

from fastobs.probes._shapes import LONGEST, SHOWN, shape, shown


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT 1", "SELECT 22.5"),
        ("WHERE a = 'x'", "WHERE a = 'it''s'"),
        ("WHERE a IN (1)", "WHERE a IN (1, 2,3)"),
        ("WHERE a IN (%s)", "WHERE a IN (%s, %s)"),
        ("VALUES (1, 'a')", "VALUES (1, 'a'), (2, 'b')"),
        ("WHERE a = 0x1F", "WHERE a = 1e5"),
    ],
)
def test_literals_make_no_difference(one, other):
    """Nor does the length of a list."""
    assert shape(one) == shape(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a", "SELECT b"),
        ("FROM orders1", "FROM orders2"),
        ('FROM "order"', 'FROM "item"'),
        ("FROM `order`", "FROM `item`"),
        # Where it is not sure what is a literal.
        ("-- it's\nSELECT 1", "-- it's\nSELECT 2"),
    ],
)
def test_names_make_one(one, other):
    """Different tables are different statements."""
    assert shape(one) != shape(other)


@pytest.mark.parametrize("system", ["postgresql", "sqlite", "mysql"])
@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM t WHERE b = 'secret'",
        "SELECT a FROM t WHERE b = 'secret",
        "SELECT a FROM t WHERE b = 'it''s secret'",
        "SELECT a FROM t WHERE b = E'it\\'s secret'",
        "SELECT a FROM t WHERE b = 'C:\\' AND c = 'secret'",
        "SELECT a FROM t WHERE b = $$it's secret$$",
        "SELECT a FROM t WHERE b = $q$it's secret$q$",
        "SELECT a FROM t WHERE b = q'[it's secret]'",
        "SELECT a FROM t WHERE b = 1 -- it's\n AND c = 'secret'",
        "SELECT a FROM t WHERE b = 1 /* it's secret */",
        "SELECT a FROM t WHERE b = 1 # it's\n AND c = 'secret'",
        "SELECT a FROM t WHERE [it's] = 'secret' AND c = ''",
        "SELECT a FROM t WHERE b = ARRAY['secret']",
        """SELECT a FROM t WHERE "it's" = 'secret'""",
        "SELECT a FROM t WHERE `it's` = 'secret'",
    ],
)
def test_nothing_that_came_from_data_is_shown(text, system):
    """Whatever way to quote a database has: the shape ends before what is not sure."""
    told = shown(shape(text), system)

    assert told.startswith("SELECT a FROM t WHERE ")
    assert "secret" not in told


@pytest.mark.parametrize("system", ["mysql", "mariadb", "sqlite"])
def test_a_double_quoted_text_may_be_a_literal(system):
    """For these it is one, or may be; for the others it is a name."""
    text = 'SELECT a FROM t WHERE b = "secret"'

    assert shown(shape(text), system) == "SELECT a FROM t WHERE b = ?"
    assert shown(shape(text), "postgresql") == text


def test_numbers_are_not_shown_either():
    """Also before what ends the shape."""
    assert shown(shape("SELECT 4711 -- it's"), "postgresql") == "SELECT ? …"


def test_what_is_shown_is_short_and_on_one_line():
    """It is for people."""
    told = shown(shape("SELECT\n  a,\n  b" + ", c" * SHOWN), "sqlite")

    assert told.startswith("SELECT a, b, c")
    assert len(told) == SHOWN + 1


def test_what_is_very_long_has_no_shape():
    """Looking for it would take longer than the statement."""
    assert shape("SELECT" + " " * LONGEST) == ""
