"""The static files of the server's page, and the policy under which a browser shows them."""

from importlib.resources import files

FILES = {
    "/": ("freeret.serve", "page.html", "text/html"),
    "/page.js": ("freeret.serve", "page.js", "text/javascript"),
    "/page.css": ("freeret.serve", "page.css", "text/css"),
    "/style.css": ("freeret.pages", "style.css", "text/css"),
}
"""By path: package, file and media type. They hold no data, so nobody needs a token for them."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: no inline script, and nothing from anywhere else."""


def read(path: str) -> tuple[bytes, str]:
    """The bytes and the media type of one of FILES."""
    package, name, media_type = FILES[path]
    return (files(package) / name).read_bytes(), media_type
