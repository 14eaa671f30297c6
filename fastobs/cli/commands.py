"""The commands by their names."""

from __future__ import annotations

import typer

from . import export, profiling
from .diff import diff
from .doctor import doctor
from .top import top

__all__ = ["app"]

app = typer.Typer(
    help="Boards, alerts, profiles and numbers of services that fastobs observes.",
    add_completion=False,
    no_args_is_help=True,
    # Errors are one line, and a route with brackets is no markup.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(export.dashboards, name="dashboards")
app.add_typer(export.alerts, name="alerts")
app.add_typer(export.monitor, name="monitor")
app.command(epilog="Example: fastobs token >> .env; fastobs token --ttl 15m --route '/orders/*'")(
    profiling.token
)
app.command(epilog="Example: fastobs profile http://127.0.0.1:8000/report --open")(
    profiling.profile
)
app.command(epilog="Example: fastobs top http://127.0.0.1:8000 --once")(top)
app.command(epilog="Example: fastobs diff before.txt http://127.0.0.1:8000")(diff)
app.command(epilog="Example: fastobs doctor main:app")(doctor)
