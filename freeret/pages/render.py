"""Rendering templates of this project: everything is escaped, and every page has the same style."""

from typing import Any

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

ENVIRONMENT = Environment(
    loader=PrefixLoader(
        {name: PackageLoader(f"freeret.{name}", ".") for name in ("pages", "demo")}
    ),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def render(template: str, **content: Any) -> str:
    """A template by its package and name, such as `demo/page.html`, with all content escaped."""
    return ENVIRONMENT.get_template(template).render(**content)
