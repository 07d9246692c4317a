"""Spread an evaluation over Ray: actors that hold one backbone each, from dataset to dataset.

    with ray_actors(num_actors=8) as actors:
        evaluate(loaders, system, out, rerank=[10], actors=actors)

Blocks of items are embedded, and the pairs of a query judged, by whichever actor is free. Ray hands
them out, starts an actor that died again, and does again what it was doing. All else stays with the
driver: geometry, ranking, metrics and files, so that they are those of one process.
"""

import functools
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from freeret.evaluate.systems.vectors import ByVectors, Space, VectorSystem
from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.reranker import Reranker, by_query
from freeret.scale.ray import session, share, typed_loading
from freeret.scale.weightless import Identity, Weightless
from freeret.store.indexing import BLOCK, blocks
from probes import Backbone, Item, Loading
from probes.errors import Mismatch
from probes.model.pretrained import load_pretrained
from probes.prompts import Side

SHARES = 4
"""Blocks an actor, at least: where they are few, the last one is waited for by all others."""


@contextmanager
def ray_actors(num_actors: int | None = None, address: str | None = None) -> Iterator["Actors"]:
    """Actors on this machine or on the cluster at `address`; by default one a GPU, or one a node
    where there is none. Raises BadSetting when Ray is not installed, FreeRetError when it does not
    start."""
    with session(address) as ray:
        actors = Actors(ray, num_actors)
        try:
            yield actors
        finally:
            actors.end()


class Worker:
    """What an actor is: a process that does what it is sent."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)

    def do(self, work: bytes, place: int, block: bytes) -> tuple[int, Any]:
        """Opened only here: what goes wrong in it is raised to the driver as it is."""
        return place, pickle.loads(work)(pickle.loads(block))


class Actors:
    """Workers; a backbone is loaded by each when it is first sent one, and kept."""

    def __init__(self, ray: Any, num_actors: int | None):
        count, threads, resources = share(ray, num_actors)
        worker = ray.remote(max_restarts=-1, max_task_retries=-1, **resources)(Worker)
        for kind in (Backbone, Weightless):
            ray.util.register_serializer(kind, serializer=_describe, deserializer=_load)
        self.ray, self.workers = ray, [worker.remote(threads) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.workers)

    def end(self) -> None:
        for kind in (Backbone, Weightless):
            self.ray.util.deregister_serializer(kind)
        for worker in self.workers:
            self.ray.kill(worker)

    def map(
        self,
        function: Callable[[Any], Any],
        blocks: Sequence[Sequence[Any]],
        progress: str | None = None,
    ) -> list[Any]:
        """`function` of every block, in the order given; `progress` names the bar.

        Raises what it raises, as it is; Mismatch when the backbone of an actor is not that of
        the driver.
        """
        from ray.exceptions import RayTaskError
        from ray.util import ActorPool

        pack = self.ray.cloudpickle.dumps
        work, found = pack(function), {}
        done = ActorPool(self.workers).map_unordered(
            lambda worker, place: worker.do.remote(work, place, pack(blocks[place])),
            list(range(len(blocks))),
        )
        count = sum(map(len, blocks))
        try:
            with tqdm(total=count, desc=progress, disable=progress is None, delay=2) as bar:
                for place, result in done:
                    found[place] = result
                    bar.update(len(blocks[place]))
        except RayTaskError as error:
            raise error.cause from error
        return [found[place] for place in range(len(blocks))]

    def backbone(self, model: str, loading: Loading) -> Weightless:
        """A backbone for the driver, which loads no weights; an actor says who it is.

        Raises what `Backbone.load` raises.
        """
        parts = load_pretrained(model, loading, weights=False)
        loading = replace(loading, revision=parts.revision)
        [identity] = self.map(_identify, [[(model, loading)]])
        return Weightless(parts, model, loading, identity)

    def recipe(self, backbone: Backbone) -> Recipe:
        """The recipe that the backbone's own report supports; an actor probes where there is
        none."""
        [recipe] = self.map(_recipe, [[backbone]], "choosing a recipe")
        return recipe

    def system(self, system: VectorSystem) -> "SpreadSystem":
        return SpreadSystem(system, self)

    def judge(self, reranker: Reranker) -> "SpreadReranker":
        return SpreadReranker(reranker, self)


class SpreadSystem(ByVectors):
    """A system of vectors by name and identity, whose items are encoded by actors."""

    def __init__(self, system: VectorSystem, actors: Actors):
        self.name, self.backbone, self.recipe = system.name, system.backbone, system.recipe
        self.geometry: Space = system.geometry
        self.identity, self.prompts_for = system.identity, system.prompts_for
        self.whole, self.actors = system, actors

    def encode(
        self, items: Sequence[Item], side: Side, task: str, *, progress: bool = False
    ) -> Tensor:
        """Raises what the system's own `encode` raises."""
        size = min(BLOCK, len(items) // (SHARES * len(self.actors)) + 1)
        cut = list(blocks(items, size)) or [[]]  # of no items too, the system makes the vectors
        encode = functools.partial(self.whole.encode, side=side, task=task)
        return torch.cat(self.actors.map(encode, cut, "embedding" if progress else None))


class SpreadReranker:
    """A reranker whose queries, each with all of its candidates, are judged by actors."""

    def __init__(self, reranker: Reranker, actors: Actors):
        self.whole, self.actors = reranker, actors

    def margins(self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False) -> np.ndarray:
        """As `Reranker.margins`."""
        cut = list(by_query(pairs))
        found = self.actors.map(self.whole.margins, cut, "reranking" if progress else None)
        return np.concatenate(found) if found else np.empty(0)


def _describe(backbone: Backbone) -> str:
    """A backbone travels as how to load it, and the fingerprint that it must have."""
    how = typed_loading(backbone).given()
    return json.dumps([backbone.name, how, backbone.fingerprint()], sort_keys=True)


@functools.lru_cache(maxsize=1)
def _kept(name: str, how: str) -> Backbone:
    return Backbone.load(name, Loading.from_json(json.loads(how)))


def _identify(block: Sequence[tuple[str, Loading]]) -> Identity:
    [(name, loading)] = block
    backbone = _kept(name, json.dumps(loading.given(), sort_keys=True))
    return Identity.of(backbone)


def _recipe(block: Sequence[Backbone]) -> Recipe:
    [backbone] = block
    return recipe_for(backbone)


@functools.lru_cache(maxsize=1)
def _load(described: str) -> Backbone:
    """Checked once, and not again for every block."""
    name, how, wanted = json.loads(described)
    backbone = _kept(name, json.dumps(how, sort_keys=True))
    *_, found = json.loads(_describe(backbone))
    if found != wanted:
        other = ", ".join(key for key in wanted if found.get(key) != wanted[key])
        raise Mismatch(
            f"an actor of Ray loads {name} with another {other} than the driver or another actor; "
            "give every machine the same model and packages, and choose the dtype (--dtype "
            "bfloat16) where not all of them have a GPU"
        )
    return backbone
