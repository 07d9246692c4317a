"""`/v1/rerank` and `/v2/rerank`, compatible with the clients of Cohere and Jina."""

import uuid
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, Field
from scipy.special import expit

from freeret.serve.api.content import as_content
from freeret.serve.service import Service
from probes import Item
from probes.errors import BadItem

DOCUMENTS = 1000
"""Most documents of one request, as Cohere recommends."""


class RerankRequest(BaseModel):
    """Cohere's request; a query or document may also be content parts."""

    query: Any = Field(description="A string or content parts.", examples=["why is bread stale?"])
    documents: list[Any] = Field(min_length=1, max_length=DOCUMENTS, examples=[["a text"]])
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    model: str | None = Field(default=None, description="Ignored: there is one model.")


class Ranked(BaseModel):
    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankResponse(BaseModel):
    id: str
    model: str
    results: list[Ranked]
    scored_by: Literal["judgement", "cosine"]
    meta: dict[str, Any]


def routes(service: Service) -> APIRouter:
    """The endpoints over a service."""
    router = APIRouter(tags=["Cohere and Jina"])

    @router.post("/v1/rerank", response_model_exclude_none=True)
    @router.post("/v2/rerank", response_model_exclude_none=True)
    async def rerank(request: RerankRequest) -> RerankResponse:
        """Documents from best to worst.

        `relevance_score` is the model's p(match), in [0, 1]. If the recipe of the store has no
        second stage, because reranking gains nothing with this model, it is the stage-1 cosine, in
        [-1, 1]: `scored_by` is then `cosine`, and `meta.warnings` gives the reason.
        """
        query = as_content(request.query, "query")
        documents = [_document(d, f"documents[{i}]") for i, d in enumerate(request.documents)]
        recipe = service.retriever.recipe
        judged = recipe.frame is not None
        scores = await (judge if judged else compare)(service, query, documents)
        order = np.argsort(-scores, kind="stable")[: request.top_n]
        warning = f"scores are stage-1 cosines: {recipe.why_not_reranked}"
        return RerankResponse(
            id=str(uuid.uuid4()),
            model=service.model,
            results=[
                Ranked(
                    index=int(i),
                    relevance_score=float(scores[i]),
                    document=_returned(request.documents[i]) if request.return_documents else None,
                )
                for i in order
            ],
            scored_by="judgement" if judged else "cosine",
            meta={"api_version": {"version": "2"}, "warnings": [] if judged else [warning]},
        )

    return router


async def judge(service: Service, query: Item, documents: list[Item]) -> np.ndarray:
    """p(match) of each document."""
    return expit(await service.margins([(query, document) for document in documents]))


async def compare(service: Service, query: Item, documents: list[Item]) -> np.ndarray:
    """The stage-1 cosine of each document."""
    query_vectors = await service.embed([query], "query")
    document_vectors = await service.embed(documents, "document")
    return (document_vectors.raw @ query_vectors.raw[0]).numpy()


def _document(value: Any, name: str) -> Item:
    if isinstance(value, dict) and not {"text", "image_url", "content"} & value.keys():
        raise BadItem(f"{name} has no text; a document is a string or an object with text", name)
    return as_content(value, name)


def _returned(document: Any) -> dict[str, Any]:
    return document if isinstance(document, dict) else {"text": document}
