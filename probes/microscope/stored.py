"""States of any number of items on disk: written in shards while the model runs, read back lazily.

A folder holds `states.json`, which says what was read and by which backbone, and shards
`states-000000.safetensors`. A shard holds the states of some items one after another: a tensor
`[positions, hidden]` for each site, and for each position its token id and its place in the row;
its metadata hold the ids and checksums of the items. Shards are written whole or not at all, so
that after a kill the same call goes on where it stopped.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from filelock import FileLock
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from probes.arguments import check_choice
from probes.errors import BadItem, BadSetting, Mismatch, NotStored
from probes.files import read_format, write_atomic, write_json
from probes.items import Item, as_item, with_places
from probes.model.backbone import Backbone
from probes.model.batches.ahead import ahead, row_blocks
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.encoding.rows import Positions, token_slice
from probes.model.sites import Site, as_sites
from probes.model.trace import States, record
from probes.prompts import Prompted, Source

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST, SHARDS = "states.json", "states-*.safetensors"
SHARD_BYTES = 2**26
"""Bytes of states in a shard, which is in memory until it is written: what a kill loses."""
NAMES = ("model", "revision", "versions")
"""Entries of a fingerprint that do not decide states."""


class StoredItem(NamedTuple):
    """The states of one item."""

    tokens: list[int]
    """The token id at each position that was read; placeholders of media are tokens."""
    states: States
    """By site, `[positions, hidden]` in the dtype of the model. `states.read[0]` holds the place of
    each position in the row, after row 0."""


@dataclass(frozen=True, eq=False)
class StoredStates(Mapping[str, StoredItem]):
    """States on disk: a mapping from the ids of items, in the order in which they were written.

    Only ids are held in memory; states are read when they are asked for.
    """

    folder: Path
    skipped: dict[str, str] = field(default_factory=dict)
    """What was wrong with each item that could not be read, by its id."""

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """What was read, and the fingerprint of the backbone."""
        return read_format(self.folder / MANIFEST, FORMAT, "a folder of states", "store_states")

    @property
    def sites(self) -> list[Site]:
        """The sites, in order of execution."""
        return [Site.parse(site) for site in self.manifest["sites"]]

    def __repr__(self) -> str:
        sites = ", ".join(self.manifest["sites"])
        return f"StoredStates({str(self.folder)!r}, {len(self)} items at {sites})"

    def __getitem__(self, id: str) -> StoredItem:
        """The states of one item, of which nothing else is read. Raises NotStored."""
        if id not in self._places:
            raise NotStored(f"{self.folder} holds no states of {id!r}")
        place = self._places[id]
        with safe_open(place.shard, framework="pt") as file:
            cut = slice(place.start, place.stop)
            tokens, columns = (file.get_slice(n)[cut].tolist() for n in ("tokens", "columns"))
            by_site = {site: file.get_slice(str(site))[cut] for site in self.sites}
        read = [[(0, column) for column in columns]]
        return StoredItem(tokens, States(by_site, None, self.manifest["layers"], read))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def array(self, site: str | Site) -> Float[Tensor, "positions hidden"]:
        """The states of all items at one site, in the order of their ids, item after item: of last
        positions `[items, hidden]`. `.float().numpy()` gives them as an array.

        Raises:
            BadSetting: There is no such site.
            NotStored: Its states were not stored.
        """
        named = str(Site.parse(site).resolve(self.manifest["layers"]))
        if named not in self.manifest["sites"]:
            raise NotStored(f"{self.folder} holds no states at {site}")
        shards = dict.fromkeys(place.shard for place in self._places.values())
        if not shards:
            return torch.empty(0, self.manifest["hidden"])
        read = []
        for shard in shards:
            with safe_open(shard, framework="pt") as file:
                read.append(file.get_tensor(named))
        return torch.cat(read)

    @functools.cached_property
    def _places(self) -> dict[str, "_Place"]:
        found: dict[str, _Place] = {}
        for shard in sorted(self.folder.glob(SHARDS)):
            start = 0
            with safe_open(shard, framework="pt") as file:
                items = json.loads(file.metadata()["items"])
            for id, digest, count in items:
                found[id] = _Place(shard, start, start + count, digest)
                start += count
        return found


class _Place(NamedTuple):
    """Where the states of an item are."""

    shard: Path
    start: int
    stop: int
    digest: str
    """Checksum of its tokens and media."""


class _Made(NamedTuple):
    """An item that is ready for the model."""

    id: str
    row: Row
    digest: str


def stored_states(folder: str | Path) -> StoredStates:
    """Open a folder that `store_states` has written. Raises BadFile where there is none."""
    stored = StoredStates(Path(folder))
    stored.manifest  # noqa: B018  read here, so that a mistake is found here
    return stored


def store_states(
    backbone: Backbone,
    items: Source | Iterable[Source],
    sites: str | Site | Iterable[str | Site],
    folder: str | Path,
    *,
    positions: Positions = "last",
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
) -> StoredStates:
    """Stream the states of any number of texts, pictures or other items to disk.

    Items are read, and rows made, ahead of the model; at no time are more states in memory than
    those of a shard. An item that is stored already is not computed again: to go on after a kill,
    or to add items, give all of them again.

    Args:
        backbone: The model to read.
        items: Items with an id, or whose place, counted from 0, is their id; a generator is read as
            it goes.
        sites: Where to read, such as `["attn[-1]", "norm"]`, or `"all"`.
        folder: Where to write. One process writes at a time, others wait.
        positions: "last", "all" or a slice of the tokens of each row, as in `record`.
        on_error: What to do with an item that cannot be read: raise its error, or log it, go on and
            name it in `StoredStates.skipped`.
        progress: Whether to show a progress bar.

    Returns:
        What the folder holds.

    Raises:
        BadItem: An item cannot be read, or two have the same id.
        BadSetting: There is no such site, position or choice.
        Mismatch: The folder holds states of another backbone, or of other sites or positions; or
            other content under the id of an item.
        OutOfMemory: A single item does not fit in memory.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    token_slice(positions)  # raises for what are no positions, before anything is written
    depth = backbone.num_layers
    resolved = {site.single(depth) for site in as_sites(sites, depth)}
    if not resolved:
        raise BadSetting("nothing to store: name at least one site")
    ordered = sorted(resolved, key=lambda site: site.depth(depth))
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        _check_manifest(root, backbone, ordered, positions)
        stored = StoredStates(root)
        known = {id: place.digest for id, place in stored._places.items()}
        new = _new(backbone, items, known, on_error, stored.skipped, progress)
        for shard in _shards(backbone, new, len(ordered), positions):
            content = _computed(backbone, shard, ordered, positions)
            write_atomic(_next_shard(root), content)
    return StoredStates(root, stored.skipped)


def _check_manifest(
    root: Path, backbone: Backbone, sites: list[Site], positions: Positions
) -> None:
    """Write what is read here, or compare it with what was read before."""
    if isinstance(positions, slice):
        positions_read: Any = [positions.start, positions.stop, positions.step]
    else:
        positions_read = positions
    manifest = {
        "format": FORMAT,
        "sites": list(map(str, sites)),
        "positions": positions_read,
        "layers": backbone.num_layers,
        "hidden": backbone.hidden_size,
        "fingerprint": json.loads(json.dumps(backbone.fingerprint())),
    }
    if not (root / MANIFEST).exists():
        write_json(root / MANIFEST, manifest)
        return
    before = read_format(root / MANIFEST, FORMAT, "a folder of states", "store_states")
    for key in ("sites", "positions"):
        if before[key] != manifest[key]:
            raise Mismatch(
                f"{root} holds {key} {before[key]}, not {manifest[key]}: give another folder"
            )
    ours, theirs = manifest["fingerprint"], before["fingerprint"]
    for key in (ours.keys() | theirs.keys()) - set(NAMES):
        if ours.get(key) != theirs.get(key):
            raise Mismatch(
                f"{root} holds states of another backbone ({key} {theirs.get(key)}, here "
                f"{ours.get(key)}): give another folder"
            )


def _next_shard(root: Path) -> Path:
    """The path of the next shard, after all that there are."""
    last = max(root.glob(SHARDS), default=Path("states--1"))
    return root / f"states-{int(last.stem.removeprefix('states-')) + 1:06}.safetensors"


def _new(
    backbone: Backbone,
    items: Any,
    known: Mapping[str, str],
    on_error: str,
    skipped: dict[str, str],
    progress: bool,
) -> Iterator[_Made]:
    """The items that are not stored yet, made ahead of the model."""
    several = [items] if isinstance(items, Prompted) else items
    values = (value for _, value in with_places(several))

    def make(numbered: tuple[int, Any]) -> _Made | BadItem:
        number, value = numbered
        try:
            source = value if isinstance(value, Prompted) else as_item(value, place=f"{number}")
            id = source.id if isinstance(source, Item) and source.id is not None else str(number)
            row = backbone.row(source, f"item {id!r}")
        except BadItem as error:
            if on_error == "raise":
                raise
            return BadItem(str(error), getattr(value, "id", None) or str(number))
        media = [piece.key for piece in row.media]
        return _Made(id, row, hashlib.sha256(json.dumps([row.ids, media]).encode()).hexdigest())

    def nbytes(made: _Made | BadItem) -> int:
        return made.row.nbytes if isinstance(made, _Made) else 0

    total = len(several) if isinstance(several, list | tuple) else None
    seen: set[str] = set()
    for made in tqdm(
        ahead(make, enumerate(values), nbytes=nbytes),
        total=total, desc="states", unit="item", disable=not progress, delay=2, leave=None,
    ):  # fmt: skip
        if isinstance(made, BadItem):
            log.warning("%s", made)
            skipped[made.item or ""] = str(made)
            continue
        if made.id in seen:
            raise BadItem(f"two items have the id {made.id!r}: give each its own", made.id)
        seen.add(made.id)
        if made.id not in known:
            yield made
        elif known[made.id] != made.digest:
            raise Mismatch(
                f"states of other content are stored under the id {made.id!r}: give the items ids "
                "of their own, or another folder"
            )


def _shards(
    backbone: Backbone, made: Iterable[_Made], sites: int, positions: Positions
) -> Iterator[list[_Made]]:
    """Cut a stream of items into shards of at most about SHARD_BYTES of states."""
    size = sites * backbone.hidden_size * backbone.dtype.itemsize
    for block in row_blocks(backbone, made, lambda one: [one.row]):
        shard: list[_Made] = []
        held = 0
        for one in block:
            if shard and held >= SHARD_BYTES:
                yield shard
                shard, held = [], 0
            shard.append(one)
            held += size * len(_read(one.row, positions))
        yield shard


def _read(row: Row, positions: Positions) -> range:
    """The places of the tokens of a row that are read."""
    return range(len(row))[token_slice(positions)]


def _computed(
    backbone: Backbone, shard: list[_Made], sites: list[Site], positions: Positions
) -> bytes:
    """The content of a shard."""

    def forward(batch: Batch) -> list[list[Tensor]]:
        states = record(backbone, batch, sites, positions=positions)
        by_site = [[row.cpu() for row in states.by_row(site)] for site in sites]
        return [list(of_row) for of_row in zip(*by_site, strict=True)]

    rows = [one.row for one in shard]
    last = positions == "last"
    columns = zip(*run_batches(backbone, rows, forward, share_prefix=last), strict=True)
    tensors = {str(site): torch.cat(states) for site, states in zip(sites, columns, strict=True)}
    read = [(row, place) for row in rows for place in _read(row, positions)]
    tensors["tokens"] = torch.tensor([row.ids[place] for row, place in read], dtype=torch.int32)
    tensors["columns"] = torch.tensor([place for _, place in read], dtype=torch.int32)
    items = [(one.id, one.digest, len(_read(one.row, positions))) for one in shard]
    return save(tensors, {"items": json.dumps(items)})
