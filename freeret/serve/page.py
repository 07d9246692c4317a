"""The static files of the server's page, and the policy under which a browser shows them."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

FILES = {
    "/": ("freeret.serve", "page.html", "text/html"),
    "/page.js": ("freeret.serve", "page.js", "text/javascript"),
    "/page.css": ("freeret.serve", "page.css", "text/css"),
    "/style.css": ("freeret.pages", "style.css", "text/css"),
}
"""By path: package, file and media type. They hold no data: nobody needs a token for them."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: no inline script or style, and nothing from elsewhere."""


async def respond(request: Request) -> Response:
    """The file of one of the paths in FILES."""
    package, name, media_type = FILES[request.url.path]
    content = (files(package) / name).read_bytes()
    return Response(content, media_type=media_type, headers={"content-security-policy": POLICY})
