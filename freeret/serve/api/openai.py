"""`/v1/embeddings` and `/v1/models`, compatible with OpenAI's clients, with pictures as in vLLM."""

import base64
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from torch import Tensor

from freeret.serve.api.content import as_conversation, as_inputs
from freeret.serve.service import Service
from probes.errors import BadItem, BadSetting
from probes.geometry import unit
from probes.prompts import Side

INPUTS = 2048
"""Most inputs of one request, as in OpenAI's API."""
SIDES: dict[str, Side] = {
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "query": "query",
    "search_query": "query",
}


class EmbeddingRequest(BaseModel):
    """OpenAI's request; `messages` is vLLM's, `input_type` Cohere's."""

    input: Any = Field(
        default=None,
        description="A string, a content part, {content: [parts]}, or a list of these.",
        examples=["a text", ["a text", {"type": "text", "text": "another"}]],
    )
    messages: list[Any] | None = Field(default=None, description="One input, as a conversation.")
    model: str | None = Field(default=None, description="Ignored: there is one model.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        default=None,
        ge=1,
        description="Keep the first dimensions, renormalised to length 1.",
    )
    input_type: Literal["document", "passage", "search_document", "query", "search_query"] = (
        "document"
    )
    task: str | None = Field(
        default=None, description="What is searched for, if the prompt of the store states a task."
    )


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    store_version: int


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    dimensions: int
    input_modalities: list[str]


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


def routes(service: Service) -> APIRouter:
    """The endpoints over a service."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def embeddings(request: EmbeddingRequest) -> JSONResponse:
        """Unit vectors in the geometry of the store: the dot product of a query and a document is
        the cosine that search ranks by.

        Queries and documents may have different prompts and means, so set `input_type`. The
        geometry is fitted on the store: once the store has changed (`store_version`), earlier
        vectors are comparable to new ones only as far as its mean and covariance are unchanged.
        Between modalities, search also calibrates cosines to one scale, which depends on the query
        and is not part of a vector.
        """
        items = _items(request)
        side = SIDES[request.input_type]
        vectors, tokens = await service.embed(items, side, request.task)
        vectors = _cut(vectors, request.dimensions)
        data = [
            {"object": "embedding", "index": i, "embedding": _encoded(row, request.encoding_format)}
            for i, row in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse(
            {
                "object": "list",
                "data": data,
                "model": service.model,
                "usage": usage,
                "store_version": service.store.version,
            }
        )

    @router.get("/v1/models")
    async def models() -> ModelList:
        """The model that is served."""
        model = Model(
            id=service.model,
            object="model",
            created=0,
            owned_by="freeret",
            dimensions=service.retriever.embedder.dimension,
            input_modalities=service.reads,
        )
        return ModelList(object="list", data=[model])

    return router


def _items(request: EmbeddingRequest) -> list[Any]:
    if (request.input is None) == (request.messages is None):
        raise BadItem("give either input or messages")
    if request.messages is not None:
        return [as_conversation(request.messages)]
    if isinstance(request.input, list) and len(request.input) > INPUTS:
        raise BadItem(f"input holds {len(request.input)} inputs; at most {INPUTS} are embedded")
    return as_inputs(request.input)


def _cut(vectors: Tensor, dimensions: int | None) -> Tensor:
    if dimensions is None:
        return vectors
    if dimensions > vectors.shape[1]:
        raise BadSetting(f"dimensions is {dimensions}, and the vectors have {vectors.shape[1]}")
    return unit(vectors[:, :dimensions])


def _encoded(row: Tensor, format: str) -> list[float] | str:
    if format == "float":
        return row.tolist()
    return base64.b64encode(row.numpy().astype("<f4").tobytes()).decode()
