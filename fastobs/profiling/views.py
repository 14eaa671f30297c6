"""What a stored profile looks like: one function per format, all of them slow, none for the loop."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jinja2
from pyinstrument import renderers
from pyinstrument.renderers import html as pyinstrument_html

from .stacks import Stacks
from .store import Meta

__all__ = ["FORMATS", "Format", "listing"]

FOREIGN_STYLE = re.compile(r"https://fonts\.googleapis\.com/[^\"'`]*")


class Format(NamedTuple):
    """One of the ``?format=`` of the viewer.

    Attributes:
        media_type: Of the response.
        render: The body, given the profile and the nonce that lets the page's own scripts run.
    """

    media_type: str
    render: Callable[[Meta, Stacks, str], str]


def page(meta: Meta, stacks: Stacks, nonce: str) -> str:
    """The interactive view of pyinstrument under a line that says which request it was."""
    script, style = _application()
    return (
        _templates()
        .get_template("profile.html")
        .render(
            meta=meta,
            seconds=_seconds(meta.duration),
            when=_when(meta),
            formats=[name for name in FORMATS if name != "html"],
            nonce=nonce,
            script=script,
            style=style,
            session=in_script(renderers.html.JSONForHTMLRenderer().render(stacks.session())),
        )
    )


def text(meta: Meta, stacks: Stacks, nonce: str) -> str:  # noqa: ARG001 - every view's signature
    """The tree of pyinstrument for terminals."""
    renderer = renderers.ConsoleRenderer(unicode=True, color=False)
    return renderer.render(stacks.session())


def as_json(meta: Meta, stacks: Stacks, nonce: str) -> str:  # noqa: ARG001
    """What is known about the request, and pyinstrument's tree."""
    session = renderers.JSONRenderer().render(stacks.session())
    # Put together as text: parsing such a deep tree could exceed the recursion limit.
    return f'{{"profile": {json.dumps(asdict(meta))}, "session": {session.strip()}}}\n'


FORMATS = {
    "html": Format("text/html; charset=utf-8", page),
    "json": Format("application/json", as_json),
    "text": Format("text/plain; charset=utf-8", text),
}


def listing(found: Sequence[Meta], *, here: str) -> str:
    """All profiles, as a page.

    Args:
        found: The newest first.
        here: What a link to a profile begins with.
    """
    rows = [(meta, _seconds(meta.duration), _when(meta)) for meta in found]
    return _templates().get_template("profiles.html").render(rows=rows, here=here)


def in_script(document: str) -> str:
    r"""JSON that cannot end the script element it stands in.

    Whatever the names in a profile are, ``</script>`` and ``<!--`` begin with a character that a
    JSON string may have as ``\u003c`` too; outside of strings it does not occur.
    """
    return document.replace("<", "\\u003c")


@cache
def _application() -> tuple[str, str]:
    """Script and style of pyinstrument, without the fonts that they load from another site."""
    resources = Path(pyinstrument_html.__file__).with_name("html_resources")
    script = (resources / "app.js").read_text(encoding="utf-8")
    style = (resources / "app.css").read_text(encoding="utf-8")
    return FOREIGN_STYLE.sub("", script), FOREIGN_STYLE.sub("", style)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _seconds(duration: float) -> str:
    return f"{duration:.2f} s" if duration >= 1 else f"{duration * 1000:.1f} ms"


def _when(meta: Meta) -> str:
    return datetime.fromisoformat(meta.time).strftime("%Y-%m-%d %H:%M:%S UTC")
