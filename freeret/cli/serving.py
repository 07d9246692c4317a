"""The command `freeret serve`."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from freeret import preflight
from freeret.cli.options import AS_STORED, Memory, Positive, Reopened
from freeret.cli.output import say
from freeret.search import MEMORY


def serve(
    store: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 8000,
    token: Annotated[str | None, Parameter(env_var="FREERET_TOKEN")] = None,
    queue: Positive = 64,
    memory: Memory = MEMORY,
    stored: Reopened = AS_STORED,
) -> None:
    """Serve a store over HTTP: a search page, and endpoints for clients of OpenAI and Cohere.

    The model is loaded with the settings used for indexing, unless overridden.

    Args:
        store: Folder or object-store URL of the store.
        host: Address to listen on. Any address that other machines can reach needs a token.
        port: Port to listen on; 0 takes a free one.
        token: Bearer token that every request must carry. Other users of this machine can read the
            command line, so prefer the environment variable.
        queue: Maximum number of active and waiting requests; further ones get status 429.
    """
    preflight.check_store(store)
    preflight.check_server(host, token)
    from freeret.serve.server import listen, run

    listener = listen(host, port)
    import logging

    from freeret.serve.app import create_app
    from freeret.serve.guard import LOOPBACK, Limits

    logging.getLogger("freeret.serve").setLevel(logging.INFO)
    retriever = stored.open(store, memory, progress=False)
    retriever.corpus.geometry_for(["text"])
    app = create_app(
        retriever,
        limits=Limits(queue=queue),
        token=token,
        hosts=LOOPBACK if preflight.is_loopback(host) else (),
    )
    name, number = listener.getsockname()[:2]
    address = f"[{name}]" if ":" in name else name
    say(f"Serving {store} at http://{address}:{number} (Ctrl+C stops)")
    run(app, listener)
