"""Index with Ray Data: one backbone an actor, one store for all.

Ray reads the files, hands blocks of items to a pool of actors, starts an actor that died again and
gives its block to another. Every actor does what one process does: it embeds what the store does
not hold and commits block by block. A block that was committed before its actor died is replaced by
itself, so nothing is lost and nothing doubled.
"""

import itertools
import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch

from freeret.extras import require
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.scale.opening import Opening
from freeret.search.ann import Index, Recall
from freeret.sources import tables
from freeret.sources.files import Files, Listing
from freeret.store.feed import Feed
from freeret.store.indexing import Indexed, blocks, given_twice, index_block, refuse
from freeret.store.recorded import recorded_loading
from freeret.store.table import Store
from probes import Backbone, Loading
from probes.errors import BadSetting, FreeRetError

log = logging.getLogger(__name__)
T = TypeVar("T")

ROOM = 0.25
"""Share of the CPUs that is left for reading; with none the actors would wait for ever."""
READ = 0.1
"""CPUs that Ray counts for one reading task."""


def index_without_weights(
    opening: Opening,
    items: Any,
    *,
    on_error: str = "raise",
    prune: bool = False,
    shards: str | None = None,
    num_actors: int | None = None,
    address: str | None = None,
    ann: Index | None = None,
    progress: bool = False,
) -> tuple[Indexed, Recall | None]:
    """`FreeRet.index` of a driver that loads no backbone, for it may stand on a machine without a
    GPU: a task on the cluster makes the store, and fits its geometry when all is written.

    Args:
        opening: Store, model and recipe.
        items: As for `FreeRet.index`.
        on_error: Likewise.
        prune: Likewise.
        shards: Likewise.
        num_actors: As for `index_with_ray`.
        address: Likewise.
        ann: Approximate index to build over everything stored.
        progress: Whether to show bars.

    Returns:
        What was done, and the recall of the approximate index.

    Raises:
        What `index_with_ray` and `Opening.retriever` raise.
    """
    feed = Feed.of(items, on_error, prune, shards)
    fresh = feed.shard is None and not Store.exists(opening.store)
    with session(address) as ray:
        recipe: Recipe = _as_task(ray, num_actors, _make_store, opening)
        store = Store.open(opening.store)
        loading = recorded_loading(store.identity).updated(opening.loading)
        try:
            done = index_with_ray(
                store.location, opening.model, loading, recipe, feed.stream,
                on_error=on_error, num_actors=num_actors, address=address, progress=progress,
            )  # fmt: skip
            store.refresh()
        except BaseException:
            if fresh:
                store.remove_if_empty()
            raise
        feed.finish(done, store)
        if feed.shard is not None and ann is None:
            return done, None
        opening = replace(opening, recipe=recipe, task=None)
        return done, _as_task(ray, num_actors, _fit, opening, ann)


def _make_store(opening: Opening) -> Recipe:
    """Make the store, or see that it was made alike; returns the recipe."""
    retriever = opening.retriever()
    Store.create(opening.store, retriever.identity(), retriever.embedder.dimension)
    return retriever.recipe


def _fit(opening: Opening, ann: Index | None) -> Recall | None:
    """Compact the store, fit its geometry, build its approximate index."""
    retriever = opening.retriever()
    retriever.index([], opening.store)  # opens the store, and fits it
    return None if ann is None else retriever.build_ann(ann)


def _as_task(ray: Any, num_actors: int | None, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function where an actor would run, with what one takes of the cluster."""
    _, threads, resources = share(ray, num_actors)
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
    location: str,
    model: str,
    loading: Loading,
    recipe: Recipe,
    items: Iterable[Any],
    *,
    on_error: str = "raise",
    num_actors: int | None = None,
    address: str | None = None,
    progress: bool = False,
) -> Indexed:
    """Write every item that is new or changed into the store at `location`, which exists, as
    `indexing.index_items` does.

    `Files` are read by Ray's tasks, anything else is sent to them from here. By default an actor a
    GPU, or one a node where there is none; each loads `model` as `loading` says, and what that
    leaves open is decided by its own device. `address` is that of a running cluster. An id that
    comes again with another content is a bad item, as in one process; but two blocks may be written
    at once, so which of the two contents is stored is not certain. Raises BadItem, StoreError,
    StoreMismatch, BackboneNotFound; BadSetting when Ray is not installed, FreeRetError when it does
    not start.
    """
    done = Indexed()
    files = items.source if isinstance(items, Listing) else None
    for error in items.bad if isinstance(items, Listing) else ():
        refuse(done, error, on_error, "")
    sent = _groups(items) if isinstance(items, Listing) else blocks(enumerate(items))
    packed = [{"block": pickle.dumps(block)} for block in sent]
    if not packed:
        return done
    with session(address) as ray:
        ray.data.DataContext.get_current().enable_progress_bars = progress
        actors, threads, resources = share(ray, num_actors)
        rows = ray.data.from_items(packed)
        if files is not None:
            rows = rows.map_batches(_reader(files), batch_size=1, num_cpus=READ)
        outcomes = rows.map_batches(
            Indexing,
            fn_constructor_args=[location, model, loading, recipe, on_error, threads],
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
    """Two actors know nothing of each other's ids; here they meet."""
    for id in outcome.seen.keys() & done.seen.keys():
        (hash, place), (earlier, before) = outcome.seen[id], done.seen[id]
        if hash != earlier:
            refuse(done, given_twice(id, place, before), on_error, place)


class Indexing:
    """What one actor does with every block: the path of a single process."""

    def __init__(
        self,
        location: str,
        model: str,
        loading: Loading,
        recipe: Recipe,
        on_error: str,
        threads: int,
    ):
        self.on_error, self.error = on_error, None
        torch.set_num_threads(threads)
        try:
            retriever = FreeRet(Backbone.load(model, loading), recipe)
            self.embedder = retriever.embedder
            self.store = Store.open(location)
            self.store.require(retriever.identity())
            self.known = self.store.hashes()
        except FreeRetError as error:  # said by the first block; Ray would try for ever
            self.error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"outcome": [pickle.dumps(self._index(pickle.loads(b))) for b in batch["block"]]}

    def _index(self, block: list[tuple[int, Any]]) -> Indexed | FreeRetError:
        if self.error is not None:
            return self.error
        try:
            return index_block(self.store, self.embedder, block, self.known, self.on_error, {})
        except FreeRetError as error:
            return error


def _reader(files: Files) -> Callable[[dict[str, Any]], Iterator[dict[str, list[bytes]]]]:
    """From a few files, blocks of their items, each of them pickled."""

    def read(batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for group in batch["block"]:
            stream = itertools.chain.from_iterable(
                _readable(files, file, name) for file, name in pickle.loads(group)
            )
            for block in blocks(enumerate(stream)):
                yield {"block": [pickle.dumps(block)]}

    return read


def _readable(files: Files, file: Any, name: str) -> Iterator[Any]:
    """The items of one file; an error travels in the stream to the one who answers for it."""
    try:
        yield from files.read(file, name)
    except FreeRetError as error:
        yield error


def _groups(listing: Listing) -> Iterator[list[tuple[Any, str]]]:
    """Tables alone, for each holds many items; other files together, as many as are committed at
    once."""
    alone, others = [], []
    for file, name in listing.files:
        (alone if tables.is_table(name) else others).append((file, name))
    yield from ([table] for table in alone)
    yield from blocks(others)


def typed_loading(backbone: Backbone) -> Loading:
    """How an actor loads the same backbone: as it was asked for, since what was left open is for
    the device of the actor to decide; of a model on the hub, the same commit."""
    return replace(backbone.loading, revision=backbone.revision)


def share(ray: Any, num_actors: int | None) -> tuple[int, int, dict[str, Any]]:
    """How many actors, the threads of each, and what of the cluster each one takes.

    Raises BadSetting for fewer than one.
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
    """Ray, started here if it was not running; what was started is ended."""
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
    with warnings.catch_warnings():  # Ray forks, and LanceDB warns; only another program follows
        warnings.simplefilter("ignore")
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        except Exception as error:  # of many types, Exception itself among them
            where = f"at {address}" if address else "on this machine"
            raise FreeRetError(f"Ray did not start {where}: {error}") from error
