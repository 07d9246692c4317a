"""`freeret serve` with the clients of OpenAI and Cohere, and by plain HTTP."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cohere
import numpy as np
import openai
import pytest
from PIL import Image

from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from probes import Backbone, Item
from tests.samples import film, picture, png, sound
from tests.served import JUDGING, NOT_JUDGING, TEXTS, Served, open_ai, serving

ODD = "docs/../a b?#%2F.png"
"""An id that a URL cannot hold as it is."""


def uri(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def content(*parts: str | Image.Image) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": uri(part)}}
        for part in parts
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    (folder / "file.png").write_bytes(png(picture(seed=9)))
    return folder


@pytest.fixture(scope="module")
def served(
    tiny: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> Iterator[Served]:
    """Texts, pictures, a clip and a sound, under a recipe with a second stage."""
    retriever = FreeRet(tiny("qwen2.5-omni"), JUDGING)
    items = [Item(t, id=f"t{i}", metadata={"place": i % 2}) for i, t in enumerate(TEXTS)]
    items += [Item(images=[picture(seed=i)], id=f"p{i}") for i in range(3)]
    items += [
        Item("both", images=[folder / "file.png"], id=ODD),
        Item(videos=[film(6)], id="clip"),
        Item(audios=[sound()], id="sound"),
        Item(images=[png(picture(seed=5))], id="bytes"),
    ]
    retriever.index(items, tmp_path_factory.mktemp("served") / "store")
    with serving(retriever) as served:
        yield served


@pytest.fixture(scope="module")
def texts_only(
    tiny: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Texts, under a recipe without a second stage."""
    retriever = FreeRet(tiny("llama"), NOT_JUDGING)
    retriever.index(TEXTS, tmp_path_factory.mktemp("texts") / "store")
    with serving(retriever) as served:
        yield served


# -- OpenAI ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["query", "document"])
def test_embeddings_equal_the_vectors_that_search_compares(served: Served, side: Any) -> None:
    r = served.retriever
    with open_ai(served) as client:
        found = client.embeddings.create(model="any", input=TEXTS, extra_body={"input_type": side})
    raw = r.embedder.encode(TEXTS, side)
    expected = r.corpus.geometry_for(["text"]).map(raw, ["text"] * len(TEXTS), side)
    assert [e.index for e in found.data] == list(range(len(TEXTS)))
    np.testing.assert_allclose([e.embedding for e in found.data], expected, atol=1e-5)
    assert found.usage.prompt_tokens == sum(len(r.embedder.rows(Item(t), side)[0]) for t in TEXTS)


def test_the_cosine_of_vectors_is_the_score_of_search(texts_only: Served) -> None:
    with open_ai(texts_only) as client:
        query = client.embeddings.create(
            model="any", input="the user", extra_body={"input_type": "query"}
        )
        documents = client.embeddings.create(model="any", input=TEXTS)
    cosines = np.array([d.embedding for d in documents.data]) @ query.data[0].embedding
    hits = texts_only.post("/search", text="the user").json()["hits"]
    by_text = {hit["text"]: hit["score"] for hit in hits}
    np.testing.assert_allclose(cosines, [by_text[t] for t in TEXTS], atol=1e-5)


def test_formats_and_dimensions(served: Served) -> None:
    def ask(**more: Any) -> np.ndarray:
        data = served.post("/v1/embeddings", input="the word", **more).json()["data"]
        value = data[0]["embedding"]
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value), "<f4")
        return np.array(value)

    whole = ask()
    np.testing.assert_allclose(ask(encoding_format="base64"), whole, atol=1e-7)
    cut = ask(dimensions=8)
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    assert served.post("/v1/embeddings", input="x", dimensions=10**6).status_code == 400


def test_pictures_in_every_form(served: Served) -> None:
    r, shown = served.retriever, picture(seed=2)
    items = [Item(images=[shown]), Item("look", images=[shown])]
    signatures = [item.signature for item in items]
    raw = r.embedder.encode_document(items)
    expected = r.corpus.geometry_for(signatures).map(raw, signatures, "document")
    [part] = content(shown)
    both = [part, {"type": "text", "text": "look"}]
    given = served.post("/v1/embeddings", input=[part, {"content": both}]).json()["data"]
    np.testing.assert_allclose([e["embedding"] for e in given], expected, atol=1e-5)
    message = served.post("/v1/embeddings", messages=[{"role": "user", "content": both}]).json()
    np.testing.assert_allclose(message["data"][0]["embedding"], expected[1], atol=1e-5)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": [1, 2, 3]}, "token ids"),
        ({"input": [[1, 2], [3]]}, "token ids"),
        ({"input": []}, "empty"),
        ({"input": ""}, "no content"),
        ({"input": ["fine", " "]}, r"input[1]"),
        ({"input": "\ud800"}, "Unicode"),
        ({"input": {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}}, "data URI"),
        ({"input": {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}}, "data URI"),
        ({"input": {"type": "image_url", "image_url": {"url": "/etc/passwd"}}}, "data URI"),
        ({"input": {"image_url": {"url": "data:image/png;base64,AAAA"}}}, "cannot read the image"),
        ({"input": {"image_url": {"url": "data:image/png;base64,!!!!"}}}, "base64"),
        ({"input": {"type": "video", "video": "/etc/passwd"}}, "forms"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "messages": []}, "either"),
        ({}, "either"),
    ],
)
def test_bad_inputs_are_errors_of_openai(served: Served, body: dict[str, Any], said: str) -> None:
    answer = served.client.post(
        "/v1/embeddings", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] in ("bad_item", "bad_request")


def test_the_client_raises_its_own_errors(served: Served) -> None:
    with open_ai(served) as client:
        with pytest.raises(openai.BadRequestError, match="token ids") as caught:
            client.embeddings.create(model="any", input=[1, 2])
        assert caught.value.code == "bad_item"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="any", messages=[])


def test_models(served: Served) -> None:
    with open_ai(served) as client:
        [model] = client.models.list().data
    assert model.id == served.retriever.backbone.name
    assert model.model_extra is not None
    assert model.model_extra["input_modalities"] == ["text", "image", "video", "audio"]


# -- Cohere ----------------------------------------------------------------------------------


def test_rerank_with_both_clients_of_cohere(served: Served) -> None:
    expected = Reranker.from_recipe(served.retriever.backbone, JUDGING).rank("the user", TEXTS)
    for kind in (cohere.ClientV2, cohere.Client):
        client = kind("key", base_url=served.url, httpx_client=served.client)
        found = client.rerank(model="any", query="the user", documents=TEXTS, top_n=3)
        assert [r.index for r in found.results] == [r.index for r in expected[:3]]
        scores = [r.relevance_score for r in found.results]
        np.testing.assert_allclose(scores, [r.score for r in expected[:3]], atol=1e-5)


def test_rerank_returns_documents_and_reads_pictures(served: Served) -> None:
    documents = [{"text": "one of two", "page": 3}, "the word", {"content": content(picture())}]
    answer = served.post(
        "/v1/rerank", query="the user", documents=documents, return_documents=True
    ).json()
    assert answer["scored_by"] == "judgement"
    assert {r["index"]: r["document"] for r in answer["results"]} == {
        0: documents[0],
        1: {"text": "the word"},
        2: documents[2],
    }
    for wrong in ({"title": "no text"}, 3):
        assert served.post("/v1/rerank", query="a", documents=[wrong]).status_code == 400


def test_rerank_without_a_second_stage_says_so(texts_only: Served) -> None:
    client = cohere.ClientV2("key", base_url=texts_only.url, httpx_client=texts_only.client)
    found = client.rerank(model="any", query="the user", documents=TEXTS)
    hits = texts_only.post("/search", text="the user").json()["hits"]
    assert [TEXTS[r.index] for r in found.results] == [hit["text"] for hit in hits]
    assert found.meta is not None
    assert found.meta.warnings == ["scores are stage-1 cosines: judging gains nothing"]


# -- search and answers ------------------------------------------------------------------------


@pytest.mark.parametrize("rerank", [0, 3])
def test_search_is_that_of_the_retriever(served: Served, rerank: int) -> None:
    expected = served.retriever.search("the user", top_n=4, rerank=rerank)
    posted = served.post("/search", text="the user", top_n=4, rerank=rerank).json()
    linked = served.get(f"/search?q=the+user&top_n=4&rerank={rerank}").json()
    for found in (posted, linked):
        assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]
        for key in ("score", "stage1_score", "stage2_score"):
            for hit, right in zip(found["hits"], expected, strict=True):
                assert hit[key] == pytest.approx(getattr(right, key), abs=1e-5)
        assert found["note"] is None


def test_a_hybrid_search_is_that_of_the_retriever(served: Served) -> None:
    expected = served.retriever.search("the user", top_n=4, lexical="on")
    posted = served.post("/search", text="the user", top_n=4, lexical="on").json()["hits"]
    linked = served.get("/search?q=the+user&top_n=4&lexical=on").json()["hits"]
    for found in (posted, linked):
        assert [hit["id"] for hit in found] == [hit.id for hit in expected]
        assert [hit["legs"]["bm25"] for hit in found] == pytest.approx(
            [hit.legs.bm25 for hit in expected if hit.legs]
        )
    assert any(hit["legs"]["bm25"] for hit in posted)
    assert served.post("/search", text="the user").json()["hits"][0]["legs"] is None
    assert served.post("/search", text="the user", lexical="maybe").status_code == 400


def test_search_by_picture_kind_and_metadata(served: Served) -> None:
    shown = served.post("/search", image=uri(picture(seed=1)), kinds=["image"], top_n=20).json()
    assert {hit["id"] for hit in shown["hits"]} == {"p0", "p1", "p2", "bytes", ODD}
    assert shown["hits"][0]["id"] == "p1"
    odd = served.post("/search", text="the user", filter={"place": [1, 7]}).json()
    assert {hit["id"] for hit in odd["hits"]} == {"t1", "t3"}
    linked = served.get("/search?q=a&kind=video&kind=audio").json()
    assert {hit["id"] for hit in linked["hits"]} == {"clip", "sound"}
    assert served.post("/search", text="the user", rank=3).status_code == 400
    assert served.post("/search").status_code == 400
    assert served.post("/search", text="a", kinds=["image+text"]).status_code == 400
    assert served.post("/search", text="a", top_n=10**6).status_code == 400


def test_a_search_that_cannot_be_reranked_has_a_note(texts_only: Served) -> None:
    found = texts_only.post("/search", text="the user", rerank=3).json()
    assert found["note"] == "not reranked: judging gains nothing"
    assert all(hit["stage2_score"] is None for hit in found["hits"])


def test_a_filter_that_matches_nothing_has_a_note(served: Served) -> None:
    answer = served.post("/search", text="the user", filter={"plaec": 1}).json()
    assert answer["hits"] == []
    assert answer["note"].startswith("no item has the key 'plaec'; keys here: ")
    assert served.post("/search", text="the user", filter={"place": 1}).json()["note"] is None


def test_similar_items(served: Served) -> None:
    found = served.post("/similar", id="t2", top_n=3).json()["hits"]
    expected = served.retriever.similar("t2", 3)
    assert [hit["id"] for hit in found] == [hit.id for hit in expected]
    assert "t2" not in [hit["id"] for hit in found]
    pictures = served.post("/similar", id="p0", kinds=["image"]).json()["hits"]
    assert {hit["id"] for hit in pictures} == {"p1", "p2", "bytes", ODD}
    assert served.post("/similar", id="nobody").status_code == 404


def test_an_answer_whole_and_streamed(texts_only: Served) -> None:
    asked = {"question": "what moves", "top_n": 2, "max_tokens": 12}
    expected = texts_only.retriever.answer("what moves", top_n=2, max_new_tokens=12)
    whole = texts_only.post("/answer", **asked).json()
    assert whole["answer"] == expected.text
    assert [s["id"] for s in whole["sources"]] == [hit.id for hit in expected.sources]

    events = []
    with texts_only.client.stream("POST", "/answer", json={**asked, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in "".join(answer.iter_text()).strip().split("\n\n"):
            name, data = block.split("\n")
            events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    names = [name for name, _ in events]
    assert names[0] == "sources"
    assert names[-1] == "done"
    assert len(names) > 3
    assert set(names[1:-1]) == {"text"}
    assert events[0][1]["sources"] == whole["sources"]
    assert "".join(data["text"] for _, data in events[1:-1]).strip() == expected.text
    assert events[-1][1]["answer"] == expected.text


# -- items and media ---------------------------------------------------------------------------


def media_of(served: Served, id: str) -> list[dict[str, Any]]:
    hits = served.post("/search", text="a", top_n=50).json()["hits"]
    [hit] = [hit for hit in hits if hit["id"] == id]
    item = served.get(hit["url"]).json()
    assert item == {key: hit[key] for key in item}
    return item["media"]


@pytest.mark.parametrize(
    ("id", "type", "thumbnails"),
    [("p0", "image/png", 1), (ODD, "image/png", 1), ("bytes", "image/png", 1),
     ("clip", "image/webp", 4), ("sound", "audio/wav", 0)],
)  # fmt: skip
def test_media_and_thumbnails(served: Served, id: str, type: str, thumbnails: int) -> None:
    [medium] = media_of(served, id)
    answer = served.get(medium["url"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    if type == "image/png":
        expected = {"p0": 0, ODD: 9, "bytes": 5}[id]
        shown = np.asarray(Image.open(io.BytesIO(answer.content)))
        np.testing.assert_array_equal(shown, np.asarray(picture(seed=expected)))
    assert len(medium["thumbnails"]) == thumbnails
    for url in medium["thumbnails"]:
        small = served.get(url)
        assert small.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(small.content)).format == "WEBP"


def test_only_media_of_stored_items_are_served(served: Served, folder: Path) -> None:
    for path in (
        "/items/nobody",
        "/items/..%2f..%2f..%2fetc%2fpasswd",
        "/items/..%2f..%2fetc%2fpasswd/media/0",
        f"/items/{str(folder / 'file.png').replace('/', '%2F')}/media/0",
        "/items/t0/media/0",
        "/items/p0/media/1",
        "/items/p0/media/-1",
        "/items/p0/media/0/thumbnails/1",
        "/items/sound/media/0/thumbnails/0",
        "/items/x' OR '1'='1",
    ):
        answer = served.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"
    assert served.get("/items/p0/media/zero").status_code == 400


def test_a_file_that_has_gone_is_not_found(served: Served, folder: Path) -> None:
    medium = media_of(served, ODD)[0]
    moved = (folder / "file.png").rename(folder / "other.png")
    try:
        for url in (medium["url"], medium["thumbnails"][0]):
            answer = served.get(url)
            assert answer.status_code == 404
            message = answer.json()["error"]["message"]
            assert message == f"the picture of item {ODD!r} is no longer readable"
    finally:
        moved.rename(folder / "file.png")


# -- the server itself -------------------------------------------------------------------------


def test_health_recipe_page_and_schema(served: Served) -> None:
    health = served.get("/healthz").json()
    assert health["items"] == 12
    assert health["kinds"] == {"text": 5, "image": 4, "image+text": 1, "video": 1, "audio": 1}
    assert health["reranks"] is True
    assert health["queue"] == 0
    assert served.get("/recipe").json()["reasons"] == list(JUDGING.reasons)
    page = served.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    paths = served.get("/openapi.json").json()["paths"]
    assert {"/v1/embeddings", "/v2/rerank", "/search", "/answer", "/items/{id}"} <= set(paths)
