"""How keys become templates."""

from __future__ import annotations

import pytest

from fastobs.probes._templates import BEGINNINGS, VALUES, Templates


@pytest.mark.parametrize(
    ("key", "template"),
    [
        ("user:42", "user:*"),
        ("user:bob@example.com", "user:*"),
        ("report:daily", "report:*"),
        ("user:42:profile", "user:*:profile"),
        ("user:42:feed:7", "user:*:feed:*"),
        ("shop:v1:user:42", "shop:v1:user:*"),
        ("cache/items/3", "cache/items/*"),
        ("cache.users.17", "cache.users.*"),
        ("user_42", "user_*"),
        ("oauth2:abc", "oauth2:*"),
        ("homepage", "homepage"),
        ("jane.doe@example.com", "*"),
        ("9f8e7d6c:user", "*:user"),
        ("deadbeefcafe", "*"),
        ("app:views.items.get:d41d8cd98f00b204", "app:views.items.get:*"),
        ("", "*"),
    ],
)
def test_what_differs_is_left_out(key: str, template: str) -> None:
    """Words that say what a key is for stay."""
    assert Templates(100).of(key) == template


def test_ever_new_words_are_data() -> None:
    """Names of people look like words; after so many the place is a variable."""
    templates = Templates(1000)
    words = [f"name{'a' * n}x" for n in range(30)]
    made = {templates.of(f"user:{word}:profile") for word in words}

    assert len(made) == VALUES + 1
    assert templates.settled == 1
    assert templates.of(f"user:{words[0]}:profile") == "user:*:profile"
    assert templates.settled == 1


def test_the_first_beginnings_stay() -> None:
    """There are not so many kinds of keys; those that come too late share a variable."""
    templates = Templates(1000)
    words = [f"{a}{b}x" for a in "ghijklmnopqr" for b in "ghijklmnopqr"]
    made = {templates.of(f"{word}:1") for word in words}

    assert len(made) == BEGINNINGS + 1
    assert templates.of(f"{words[0]}:2") == f"{words[0]}:*"
    assert templates.of("unheard:2") == "*:*"


def test_there_are_only_so_many_templates() -> None:
    """What comes later has none."""
    templates = Templates(1)

    assert templates.of("user:1") == "user:*"
    assert templates.of("item:1") is None
    assert templates.of("user:2") == "user:*"
