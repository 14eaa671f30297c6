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

from . import pprof
from .stacks import Frame, Stacks
from .store import Meta

__all__ = ["FORMATS", "LISTS", "Around", "Format", "List"]

BREAKS_A_LINE = re.compile(r"[\s\x00-\x1f\x7f]+")
"""What ends a line for somebody: one of ``folded`` holds one stack."""
FOREIGN_STYLE = re.compile(r"https://fonts\.googleapis\.com/[^\"'`]*")


class Around(NamedTuple):
    """What pages need besides profiles."""

    nonce: str = ""
    """Lets a page's own scripts run."""
    here: str = ""
    """What a link to a profile begins with."""
    token: str = ""
    """What each link has to carry; empty if whoever follows it shows theirs by other means."""


class Format(NamedTuple):
    """One of the ``?format=`` of the viewer.

    Attributes:
        media_type: Of the response.
        render: The body, given the profile.
        ending: Of the file that a browser shall make of it; empty for what it shows itself.
    """

    media_type: str
    render: Callable[[Meta, Stacks, Around], str | bytes]
    ending: str = ""


class List(NamedTuple):
    """One of those of the list.

    Attributes:
        media_type: Of the response.
        render: The body, given the profiles, the newest first.
    """

    media_type: str
    render: Callable[[Sequence[Meta], Around], str]


def page(meta: Meta, stacks: Stacks, around: Around) -> str:
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
            around=around,
            script=script,
            style=style,
            session=in_script(renderers.html.JSONForHTMLRenderer().render(stacks.session())),
        )
    )


def text(meta: Meta, stacks: Stacks, around: Around) -> str:  # noqa: ARG001 - every view's signature
    """The tree of pyinstrument for terminals."""
    renderer = renderers.ConsoleRenderer(unicode=True, color=False)
    return renderer.render(stacks.session())


def as_json(meta: Meta, stacks: Stacks, around: Around) -> str:  # noqa: ARG001
    """What is known about the request, and pyinstrument's tree."""
    session = renderers.JSONRenderer().render(stacks.session())
    # Put together as text: parsing such a deep tree could exceed the recursion limit.
    return f'{{"profile": {json.dumps(asdict(meta))}, "session": {session.strip()}}}\n'


def speedscope(meta: Meta, stacks: Stacks, around: Around) -> str:  # noqa: ARG001
    """The course of time, as https://www.speedscope.app draws it."""
    document = json.loads(renderers.SpeedscopeRenderer().render(stacks.session()))
    (drawn,) = document["profiles"]
    # pyinstrument calls it a profile of the CPU and its time a local one; neither is so.
    document["name"] = drawn["name"] = (
        f"{stacks.description}, {_seconds(meta.duration)}, {_when(meta)}"
    )
    return json.dumps(document)


def folded(meta: Meta, stacks: Stacks, around: Around) -> str:  # noqa: ARG001
    """A line for each stack, ``outer;inner microseconds``, as flamegraph.pl and inferno read it.

    It is time and not samples, since one sample can stand for a millisecond of work or a minute of
    waiting. A function has one name whatever its line, so that it is one box.
    """
    names = [_folded(Frame.of(frame)) for frame in stacks.frames]
    lines: dict[str, float] = {}
    for node, total in stacks.totals().items():
        stack = ";".join(names[each] for each in stacks.path(node))
        lines[stack] = lines.get(stack, 0.0) + total.seconds
    counted = ((stack, round(seconds * 1e6)) for stack, seconds in lines.items())
    return "".join(f"{stack} {count}\n" for stack, count in counted if count > 0)


def _folded(frame: Frame) -> str:
    place = f"{frame.file}:{frame.begins}" if frame.begins else frame.file
    name = f"{frame.function} ({place})" if place else frame.function
    return BREAKS_A_LINE.sub(" ", name).replace(";", ",")


def protobuf(meta: Meta, stacks: Stacks, around: Around) -> bytes:  # noqa: ARG001
    """For pprof, Pyroscope and Grafana."""
    labels = {"route": meta.route, "trace_id": meta.trace_id, "span_id": meta.span_id}
    return pprof.encode(stacks, title=stacks.description, labels=labels)


FORMATS = {
    "html": Format("text/html; charset=utf-8", page),
    "json": Format("application/json", as_json),
    "text": Format("text/plain; charset=utf-8", text),
    "speedscope": Format("application/json", speedscope, "speedscope.json"),
    "folded": Format("text/plain; charset=utf-8", folded, "folded"),
    "pprof": Format("application/octet-stream", protobuf, "pb.gz"),
}


def listing(found: Sequence[Meta], around: Around) -> str:
    """All profiles, as a page."""
    rows = [(meta, _seconds(meta.duration), _when(meta)) for meta in found]
    return _templates().get_template("profiles.html").render(rows=rows, around=around)


def described(found: Sequence[Meta], around: Around) -> str:  # noqa: ARG001 - every list's signature
    """All profiles, for a script."""
    return json.dumps({"profiles": [asdict(meta) for meta in found]})


LISTS = {
    "html": List("text/html; charset=utf-8", listing),
    "json": List("application/json", described),
}


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
