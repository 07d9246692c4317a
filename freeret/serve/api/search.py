"""`/search`, `/similar` and `/answer`: the operations of the retriever."""

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from freeret.hits import Hit, Legs
from freeret.search import Lexicality
from freeret.serve.api.content import picture
from freeret.serve.api.errors import as_response
from freeret.serve.api.items import ItemView, view
from freeret.serve.service import Ranking, Service
from probes import Item, Part
from probes.errors import BadItem

MOST = 1000
"""Most hits, and most reranked hits, of one request."""
MOST_TOKENS = 1024
"""Most tokens of one answer: no other request is served while it is generated."""

Count = Annotated[int, Field(ge=1, le=MOST)]
Judged = Annotated[int, Field(ge=0, le=MOST)]


class Strict(BaseModel):
    """A request in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(Strict):
    text: str | None = None
    image: str | None = Field(default=None, description="A picture as a data URI.")
    top_n: Count = 10
    rerank: Judged = Field(default=0, description="Number of first hits to rerank.")
    filter: dict[str, Any] | None = Field(
        default=None, description="Metadata that hits must have; a list matches any of its values."
    )
    kinds: list[str] = Field(default=[], description="text, image, video or audio; none means all.")
    task: str | None = None
    lexical: Lexicality = Field(
        default="auto", description="Whether the words of the text are searched for too."
    )
    ann: bool = Field(default=False, description="Score only candidates of the approximate index.")


class SimilarRequest(Strict):
    id: str
    top_n: Count = 10
    filter: dict[str, Any] | None = None
    kinds: list[str] = []


class AnswerRequest(Strict):
    question: str
    top_n: Annotated[int, Field(ge=1, le=50)] = 5
    rerank: Judged = 0
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 128
    stream: bool = False
    task: str | None = None
    lexical: Lexicality = "auto"


class HitView(ItemView):
    """An item and its scores. Hits are ordered by `score`, which is above 1 if reranked."""

    score: float
    stage1_score: float
    stage2_score: float | None
    legs: Legs | None
    words: list[str]


class Hits(BaseModel):
    hits: list[HitView]
    seconds: float
    note: str | None


class AnswerView(BaseModel):
    answer: str
    sources: list[HitView]
    seconds: float
    note: str | None


def routes(service: Service) -> APIRouter:
    """The endpoints over a service."""
    router = APIRouter(tags=["Search"])

    @router.post("/search")
    async def search(request: SearchRequest) -> Hits:
        """The nearest items to a text, a picture, or both."""
        start = time.perf_counter()
        hits = await _search(service, request)
        note = _note(service, request.rerank)
        if not hits:
            note = await service.why_no_items(request.filter, request.kinds) or note
        return _hits(hits, start, note)

    @router.get("/search")
    async def search_text(
        q: str,
        top_n: Annotated[int, Query(ge=1, le=MOST)] = 10,
        rerank: Annotated[int, Query(ge=0, le=MOST)] = 0,
        kind: Annotated[list[str], Query()] = [],  # noqa: B006
        lexical: Lexicality = "auto",
    ) -> Hits:
        """Search for a text by a link."""
        return await search(
            SearchRequest(text=q, top_n=top_n, rerank=rerank, kinds=kind, lexical=lexical)
        )

    @router.post("/similar")
    async def similar(request: SimilarRequest) -> Hits:
        """The nearest items to a stored one, by its stored vector."""
        start = time.perf_counter()
        hits = await service.similar(request.id, request.top_n, request.filter, request.kinds)
        return _hits(hits, start, None)

    @router.post(
        "/answer",
        response_model=AnswerView,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def answer(request: AnswerRequest) -> Any:
        """Retrieve, then generate an answer from the hits with the same weights.

        With `stream`, the response is server-sent events: `sources`, then `text` for each piece,
        then `done` or `error`.
        """
        start = time.perf_counter()
        note = _note(service, request.rerank)
        retrieval = SearchRequest(
            text=request.question,
            top_n=max(request.top_n, request.rerank),
            rerank=request.rerank,
            task=request.task,
            lexical=request.lexical,
        )
        hits = (await _search(service, retrieval))[: request.top_n]
        pieces = service.generate(request.question, hits, request.max_tokens)
        sources = [_hit(hit) for hit in hits]
        if request.stream:
            return StreamingResponse(
                _events(pieces, sources, note, start, str(service.store.location)),
                media_type="text/event-stream",
            )
        text = "".join([piece async for piece in pieces]).strip()
        return AnswerView(answer=text, sources=sources, seconds=_since(start), note=note)

    return router


async def _search(service: Service, request: SearchRequest) -> list[Hit]:
    parts = [] if request.image is None else [picture(request.image, "image")]
    if request.text is not None and (request.text.strip() or not parts):
        parts.append(Part("text", request.text))
    if not parts:
        raise BadItem("nothing to search with: give a text, an image, or both", "query")
    ranking = Ranking(
        service.retriever,
        max(request.top_n, request.rerank),
        request.filter,
        tuple(request.kinds),
        request.ann,
        request.lexical,
    )
    query = Item(parts=parts, id="query")
    hits = await service.search(query, ranking, request.rerank, request.task)
    return hits[: request.top_n]


async def _events(
    pieces: AsyncIterator[str],
    sources: list[HitView],
    note: str | None,
    start: float,
    location: str,
) -> AsyncIterator[str]:
    yield _event("sources", {"sources": [s.model_dump() for s in sources], "note": note})
    text = ""
    try:
        async for piece in pieces:
            text += piece
            yield _event("text", {"text": piece})
    except Exception as error:
        yield _event("error", json.loads(bytes(as_response(error, location).body)))
    else:
        yield _event("done", {"answer": text.strip(), "seconds": _since(start)})


def _event(name: str, data: dict[str, Any]) -> str:
    """A server-sent event: JSON on one line of data."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _note(service: Service, rerank: int) -> str | None:
    recipe = service.retriever.recipe
    if not rerank or recipe.frame is not None:
        return None
    return f"not reranked: {recipe.why_not_reranked}"


def _hits(hits: list[Hit], start: float, note: str | None) -> Hits:
    return Hits(hits=[_hit(hit) for hit in hits], seconds=_since(start), note=note)


def _hit(hit: Hit) -> HitView:
    return HitView(
        **view(hit.item).model_dump(),
        score=hit.score,
        stage1_score=hit.stage1_score,
        stage2_score=hit.stage2_score,
        legs=hit.legs,
        words=list(hit.words),
    )


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 4)
