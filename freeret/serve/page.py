"""The static files of the server's page, and their Content-Security-Policy."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

FILES = {
    "/": ("freeret.serve", "page.html", "text/html"),
    "/page.js": ("freeret.serve", "page.js", "text/javascript"),
    "/page.css": ("freeret.serve", "page.css", "text/css"),
    "/style.css": ("freeret.pages", "style.css", "text/css"),
}
"""Path -> package, file and media type. The files hold no data, so they need no token."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: no inline scripts or styles, and nothing from other origins."""


async def respond(request: Request) -> Response:
    """Respond with the file of a path in FILES."""
    package, name, media_type = FILES[request.url.path]
    content = (files(package) / name).read_bytes()
    return Response(content, media_type=media_type, headers={"content-security-policy": POLICY})
