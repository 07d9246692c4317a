"""Spread an evaluation over Ray: actors that each hold one backbone, from dataset to dataset.

    with ray_actors(num_actors=8) as actors:
        evaluate(loaders, system, out, rerank=[10], actors=actors)

Whichever actor is free embeds the next block of items or judges the pairs of the next query. Ray
schedules them, restarts an actor that died, and repeats its task. Geometry, ranking, metrics and
files stay with the driver, so that the results equal those of a single process.
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

from freeret.evaluate.systems.vectors import Space, VectorSystem
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
"""Blocks per actor, at least: with fewer, all actors would wait for the last one."""


@contextmanager
def ray_actors(num_actors: int | None = None, address: str | None = None) -> Iterator["Actors"]:
    """Start actors on this machine, or on the cluster at `address`.

    Args:
        num_actors: By default one per GPU, or one per node without GPUs.

    Raises:
        BadSetting: Ray is not installed.
        FreeRetError: Ray does not start.
    """
    with session(address) as ray:
        actors = Actors(ray, num_actors)
        try:
            yield actors
        finally:
            actors.end()


class Worker:
    """The body of an actor: a process that applies the functions it is sent."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)

    def do(self, work: bytes, place: int, block: bytes) -> tuple[int, Any]:
        """Unpickle inside the worker, so that exceptions propagate to the driver unchanged."""
        return place, pickle.loads(work)(pickle.loads(block))


class Actors:
    """A pool of workers, each of which loads a backbone when it first needs it, and keeps it."""

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
        """Apply a function to every block.

        Args:
            progress: Title of the bar; None: no bar.

        Returns:
            The results, in the order of the blocks.

        Raises:
            Mismatch: An actor loads another backbone than the driver. Exceptions of the function
                are raised unchanged.
        """
        from ray.exceptions import RayTaskError
        from ray.util import ActorPool

        pack = self.ray.cloudpickle.dumps
        work, results = pack(function), {}
        done = ActorPool(self.workers).map_unordered(
            lambda worker, place: worker.do.remote(work, place, pack(blocks[place])),
            list(range(len(blocks))),
        )
        count = sum(map(len, blocks))
        try:
            with tqdm(total=count, desc=progress, disable=progress is None, delay=2) as bar:
                for place, result in done:
                    results[place] = result
                    bar.update(len(blocks[place]))
        except RayTaskError as error:
            raise error.cause from error
        return [results[place] for place in range(len(blocks))]

    def backbone(self, model: str, loading: Loading) -> Weightless:
        """A backbone without weights for the driver; an actor provides its identity.

        Raises what `Backbone.load` raises.
        """
        parts = load_pretrained(model, loading, weights=False)
        loading = replace(loading, revision=parts.revision)
        [identity] = self.map(_identify, [[(model, loading)]])
        return Weightless(parts, model, loading, identity)

    def recipe(self, backbone: Backbone) -> Recipe:
        """The recipe that the backbone's report supports; without a report an actor probes."""
        [recipe] = self.map(_recipe, [[backbone]], "choosing a recipe")
        return recipe

    def system(self, system: VectorSystem) -> "SpreadSystem":
        return SpreadSystem(system, self)

    def judge(self, reranker: Reranker) -> "SpreadReranker":
        return SpreadReranker(reranker, self)


class SpreadSystem(VectorSystem):
    """A system of vectors whose items are encoded by actors."""

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
        cut = list(blocks(items, size)) or [[]]  # the system shapes the vectors of no items too
        encode = functools.partial(self.whole.encode, side=side, task=task)
        return torch.cat(self.actors.map(encode, cut, "embedding" if progress else None))


class SpreadReranker:
    """A reranker whose queries, each with all of its candidates, are judged by actors."""

    def __init__(self, reranker: Reranker, actors: Actors):
        self.whole, self.actors = reranker, actors

    def margins(self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False) -> np.ndarray:
        """As `Reranker.margins`."""
        cut = list(by_query(pairs))
        margins = self.actors.map(self.whole.margins, cut, "reranking" if progress else None)
        return np.concatenate(margins) if margins else np.empty(0)


def _describe(backbone: Backbone) -> str:
    """Serialise a backbone as its loading settings and the fingerprint that it must have."""
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
    """Load a serialised backbone and check its fingerprint, once for all blocks."""
    name, how, wanted = json.loads(described)
    backbone = _kept(name, json.dumps(how, sort_keys=True))
    *_, loaded = json.loads(_describe(backbone))
    if loaded != wanted:
        other = ", ".join(key for key in wanted if loaded.get(key) != wanted[key])
        raise Mismatch(
            f"an actor of Ray loads {name} with another {other} than the driver or another actor; "
            "give every machine the same model and packages, and choose the dtype (--dtype "
            "bfloat16) where not all of them have a GPU"
        )
    return backbone
