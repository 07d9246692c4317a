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
    """A template by its package and name, such as `demo/page.html`, with all content escaped.

    File names may hold bytes that are no text; they stand as escapes, so that the page can be
    written.
    """
    page = ENVIRONMENT.get_template(template).render(**content)
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def part(template: str, macro: str, *content: Any) -> str:
    """What a macro makes of some content, with its style: HTML for a notebook."""
    made = getattr(ENVIRONMENT.get_template(template).module, macro)(*content)
    return render("pages/part.html", made=made)
