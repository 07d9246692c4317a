"""The application: all endpoints over one retriever, behind the guard."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from freeret.retriever import FreeRet
from freeret.serve import page
from freeret.serve.api import cohere as cohere_api
from freeret.serve.api import items as items_api
from freeret.serve.api import openai as openai_api
from freeret.serve.api import search as search_api
from freeret.serve.api.errors import handle
from freeret.serve.compatibility import load_anyio
from freeret.serve.guard import LOOPBACK, Guard, Limits
from freeret.serve.service import Service
from freeret.serve.worker import Worker
from probes.errors import FreeRetError


class Health(BaseModel):
    status: str
    version: str
    model: str
    store: str
    items: int
    store_version: int
    kinds: dict[str, int]
    reads: list[str]
    reranks: bool
    why_not_reranked: str | None
    queue: int
    queue_limit: int


def create_app(
    retriever: FreeRet,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: tuple[str, ...] = LOOPBACK,
) -> FastAPI:
    """The ASGI application that serves a retriever with an open store.

    Args:
        retriever: The retriever; only the server may use it from now on.
        hosts: Accepted values of the Host header; an empty tuple accepts all.

    Returns:
        The application. `app.state.worker` can `refuse` new requests before the server stops.
    """
    load_anyio()
    limits = limits or Limits()
    service = Service(retriever, Worker(limits.queue))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.worker.stop)

    async def admitted() -> AsyncIterator[None]:
        with service.worker.admitted():
            yield

    app = FastAPI(
        title="FreeRet",
        version=version("freeret"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.worker, app.state.location = service.worker, str(service.store.location)
    for error in (FreeRetError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, handle)
    for group in (openai_api, cohere_api, search_api):
        app.include_router(group.routes(service), dependencies=[Depends(admitted)])
    app.include_router(items_api.routes(service))
    _about(app, service, limits)
    app.add_middleware(Guard, limits=limits, token=token, hosts=hosts)
    return app


def _about(app: FastAPI, service: Service, limits: Limits) -> None:
    """Routes of the page, the health check and the recipe."""

    for path in page.FILES:
        app.add_route(path, page.respond, include_in_schema=False)

    @functools.lru_cache(maxsize=1)
    def kinds_of(_version: int) -> dict[str, int]:
        return service.store.signatures()

    @app.get("/healthz", tags=["Server"])
    async def healthz() -> Health:
        """The model, the store, and the load of the server."""
        recipe, store = service.retriever.recipe, service.store
        kinds = await run_in_threadpool(kinds_of, store.version)
        return Health(
            status="ok",
            version=version("freeret"),
            model=service.model,
            store=Path(store.location).name,
            items=sum(kinds.values()),
            store_version=store.version,
            kinds=kinds,
            reads=service.reads,
            reranks=recipe.frame is not None,
            why_not_reranked=None if recipe.frame else recipe.why_not_reranked,
            queue=service.worker.requests,
            queue_limit=limits.queue,
        )

    @app.get("/recipe", tags=["Server"])
    async def recipe() -> dict[str, Any]:
        """The recipe of the store and its reasons."""
        return service.retriever.recipe.to_json()
