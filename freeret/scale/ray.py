"""Index with Ray Data: one backbone per actor, one store for all.

Ray reads the files, hands blocks of items to a pool of actors, restarts actors that died, and gives
their blocks to others. Every actor does what one process does: it embeds the items that the store
does not hold, and commits block by block. Commits are upserts and therefore idempotent: a block
whose actor died after its commit is replaced by itself, so nothing is lost and nothing duplicated.
"""

import itertools
import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from freeret.embedder import Embedder
from freeret.extras import require
from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.scale.opening import Opening
from freeret.search import Index
from freeret.search.ann import Recall
from freeret.search.corpus import Corpus
from freeret.sources import tables
from freeret.sources.files import Files, Listing
from freeret.store.identity import store_identity
from freeret.store.indexing import Feed, blocks, index_items
from freeret.store.outcome import Indexed, given_twice, refuse
from freeret.store.recorded import recorded_loading
from freeret.store.table import Store
from probes import Backbone, Loading
from probes.errors import BadSetting, FreeRetError

log = logging.getLogger(__name__)
T = TypeVar("T")

ROOM = 0.25
"""Share of the CPUs that is left to the tasks that read files; with none the actors would wait for
ever."""
READ = 0.1
"""CPUs that Ray reserves for one reading task."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and the actors on it."""

    num_actors: int | None = None
    """None for one per GPU, or one per node where there are no GPUs."""
    address: str | None = None
    """Of a running cluster; None starts Ray on this machine."""


def index_without_weights(
    opening: Opening,
    items: Any,
    cluster: Cluster,
    *,
    on_error: str = "raise",
    prune: bool = False,
    shards: str | None = None,
    ann: Index | None = None,
    progress: bool = False,
) -> tuple[Indexed, Recall | None]:
    """`FreeRet.index` of a driver that loads no backbone, since it may run on a machine without a
    GPU: a task on the cluster creates the store, and fits its geometry when all is written.

    Args:
        opening: Store, model and recipe.
        cluster: Where the actors run.
        ann: Approximate index to build over everything stored.

    Returns:
        What was done, and the recall of the approximate index.

    Raises:
        What `index_with_ray` and `Opening.load` raise.
    """
    feed = Feed.of(items, on_error, prune, shards)
    created = feed.shard is None and not Store.exists(opening.store)
    with session(cluster.address) as ray:
        recipe: Recipe = _as_task(ray, cluster, _make_store, opening)
        opening = replace(opening, recipe=recipe, task=None)
        store = Store.open(opening.store)
        loading = recorded_loading(store.identity).updated(opening.loading)
        try:
            done = index_with_ray(
                replace(opening, loading=loading), feed.stream, cluster,
                on_error=on_error, progress=progress,
            )  # fmt: skip
            store.refresh()
        except BaseException:
            if created:
                store.remove_if_empty()
            raise
        feed.finish(done, store)
        if feed.shard is not None and ann is None:
            return done, None
        return done, _as_task(ray, cluster, _fit, opening, ann)


def _corpus(opening: Opening) -> Corpus:
    """The store, created where there is none. Raises StoreMismatch when it was made otherwise."""
    backbone, recipe = opening.load()
    embedder = Embedder.from_recipe(backbone, recipe)
    identity = store_identity(embedder, recipe)
    store = Store.create(opening.store, identity, embedder.dimension)
    return Corpus(store, embedder, recipe, progress=True)


def _make_store(opening: Opening) -> Recipe:
    return _corpus(opening).recipe


def _fit(opening: Opening, ann: Index | None) -> Recall | None:
    """Compact the store, fit its geometry, build its approximate index."""
    corpus = _corpus(opening)
    corpus.fit()
    return None if ann is None else corpus.build_ann(ann)


def _as_task(ray: Any, cluster: Cluster, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a Ray task with the resources of one actor."""
    _, threads, resources = share(ray, cluster.num_actors)
    packed = pickle.dumps((function, arguments, threads))
    outcome = pickle.loads(ray.get(ray.remote(**resources)(_call).remote(packed)))
    if isinstance(outcome, FreeRetError):
        raise outcome
    return outcome


def _call(packed: bytes) -> bytes:
    function, arguments, threads = pickle.loads(packed)
    torch.set_num_threads(threads)
    try:
        return pickle.dumps(function(*arguments))
    except FreeRetError as error:
        return pickle.dumps(error)


def index_with_ray(
    opening: Opening,
    items: Iterable[Any],
    cluster: Cluster,
    *,
    on_error: str = "raise",
    progress: bool = False,
) -> Indexed:
    """Write every item that is new or changed into a store, as `indexing.index_items` does.

    Args:
        opening: The store, which exists, and the backbone: each actor loads it with these settings,
            and decides the others by its own device.
        items: `Listing`s of files are read by tasks of Ray, other items are sent from here.
        on_error: "raise", or "skip" to report bad items and go on. An id that comes twice with two
            contents is a bad item, as in one process; but two blocks may be written at once, so
            which of the two contents is stored is undetermined.

    Raises:
        BadItem, StoreError, StoreMismatch, BackboneNotFound: As in one process.
        BadSetting: Ray is not installed, or there are fewer than one actor.
        FreeRetError: Ray does not start.
    """
    done = Indexed()
    files = items.source if isinstance(items, Listing) else None
    for error in items.bad if isinstance(items, Listing) else ():
        refuse(done, error, on_error, "")
    sent = _groups(items) if isinstance(items, Listing) else blocks(enumerate(items))
    packed = [{"block": pickle.dumps(block)} for block in sent]
    if not packed:
        return done
    with session(cluster.address) as ray:
        ray.data.DataContext.get_current().enable_progress_bars = progress
        actors, threads, resources = share(ray, cluster.num_actors)
        rows = ray.data.from_items(packed)
        if files is not None:
            rows = rows.map_batches(_reader(files), batch_size=1, num_cpus=READ)
        outcomes = rows.map_batches(
            Indexing,
            fn_constructor_args=[opening, on_error, threads],
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            **resources,
        )
        for row in outcomes.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, FreeRetError):
                raise outcome
            for reason in outcome.skipped.values():
                log.warning("skipped: %s", reason)
            _check_ids(done, outcome, on_error)
            done += outcome
    return done


def _check_ids(done: Indexed, outcome: Indexed, on_error: str) -> None:
    """Detect one id with two contents: each actor sees the ids of its own blocks only."""
    for id in outcome.seen.keys() & done.seen.keys():
        (hash, place), (earlier, before) = outcome.seen[id], done.seen[id]
        if hash != earlier:
            refuse(done, given_twice(id, place, before), on_error, place)


class Indexing:
    """An actor: it indexes block after block, as a single process does."""

    def __init__(self, opening: Opening, on_error: str, threads: int):
        self.on_error, self.error = on_error, None
        torch.set_num_threads(threads)
        try:
            backbone = Backbone.load(opening.model, opening.loading)
            recipe = recipe_for(backbone, opening.recipe)
            self.embedder = Embedder.from_recipe(backbone, recipe)
            self.store = Store.open(opening.store)
            self.store.require(store_identity(self.embedder, recipe))
        except FreeRetError as error:  # returned by the first block; Ray would retry for ever
            self.error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"outcome": [pickle.dumps(self._index(pickle.loads(b))) for b in batch["block"]]}

    def _index(self, block: list[tuple[int, Any]]) -> Indexed | FreeRetError:
        if self.error is not None:
            return self.error
        try:
            return index_items(self.store, self.embedder, block, on_error=self.on_error)
        except FreeRetError as error:
            return error


def _reader(files: Files) -> Callable[[dict[str, Any]], Iterator[dict[str, list[bytes]]]]:
    """A function for Ray that reads pickled groups of files into pickled blocks of items."""

    def read(batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for group in batch["block"]:
            stream = itertools.chain.from_iterable(
                _readable(files, file, name) for file, name in pickle.loads(group)
            )
            for block in blocks(enumerate(stream)):
                yield {"block": [pickle.dumps(block)]}

    return read


def _readable(files: Files, file: Any, name: str) -> Iterator[Any]:
    """The items of one file; an error is put in the stream, for the actor to raise or skip."""
    try:
        yield from files.read(file, name)
    except FreeRetError as error:
        yield error


def _groups(listing: Listing) -> Iterator[list[tuple[Any, str]]]:
    """Files that one task reads: a table by itself, since it holds many items, and other files in
    groups as large as a commit."""
    alone, others = [], []
    for file, name in listing.files:
        (alone if tables.is_table(name) else others).append((file, name))
    yield from ([table] for table in alone)
    yield from blocks(others)


def opening_like(store: Store, backbone: Backbone, recipe: Recipe) -> Opening:
    """How an actor opens the store of this process."""
    return Opening(store.location, backbone.name, typed_loading(backbone), recipe)


def typed_loading(backbone: Backbone) -> Loading:
    """The settings with which an actor loads the same backbone: those that were given here, since
    the device of the actor decides the others; and the same commit of a model on the hub."""
    return replace(backbone.loading, revision=backbone.revision)


def share(ray: Any, num_actors: int | None) -> tuple[int, int, dict[str, Any]]:
    """Divide a cluster among actors.

    Args:
        num_actors: Their number; by default one per GPU, or one per node without GPUs.

    Returns:
        The number of actors, the threads of each, and the Ray resources of each.

    Raises:
        BadSetting: There are fewer than one.
    """
    if num_actors is not None and num_actors < 1:
        raise BadSetting(f"there must be at least one actor, not {num_actors}")
    have = ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), have.get("CPU", 1.0)
    actors = num_actors or gpus or len(ray.nodes())
    each = cpus * (1 - ROOM) / actors
    resources: dict[str, Any] = {"num_cpus": int(each) if each >= 1 else round(each, 3)}
    if gpus:
        resources["num_gpus"] = int(gpus / actors) if gpus >= actors else round(gpus / actors, 3)
    return actors, max(1, int(cpus // actors)), resources


@contextmanager
def session(address: str | None) -> Iterator[Any]:
    """Ray, started if it is not running, and shut down afterwards if it was started here.

    Raises:
        BadSetting: Ray is not installed.
        FreeRetError: Ray does not start.
    """
    require("ray", "engine ray")
    import ray
    import ray.data

    ours = not ray.is_initialized()
    if ours:
        _start(ray, address)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _start(ray: Any, address: str | None) -> None:
    with warnings.catch_warnings():  # LanceDB warns of the fork, but Ray executes a program next
        warnings.simplefilter("ignore")
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        except Exception as error:  # of many types, Exception itself among them
            where = f"at {address}" if address else "on this machine"
            raise FreeRetError(f"Ray did not start {where}: {error}") from error
