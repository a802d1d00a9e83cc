"""The one environment of all pages: every text is escaped, and no sign in it turns the direction of writing."""

from collections.abc import Callable
from typing import Any

from ironclip.core.escapes import prose, visible


def render(template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """A template of this package, filled in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("ironclip.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {"prose": lambda text: Markup(prose(text)), **filters}
    return environment.get_template(template).render(**values)
