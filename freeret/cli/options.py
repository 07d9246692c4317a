"""Options that several commands share, each with its help."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from freeret.scale import Engine
from freeret.search import MEMORY, Lexicality
from probes.errors import BadItem, BadSetting
from probes.media.formats import Modality
from probes.model.loading import Loading

if TYPE_CHECKING:
    from freeret.retriever import FreeRet
    from freeret.sources.files import Listing

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Count = Annotated[int, Parameter(validator=Number(gte=0))]


def _depths(_: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    """Parse depths of reranking: `5,10,50`, or the option several times."""
    typed = ",".join(token.value for token in tokens)
    parts = [part.strip() for part in typed.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise BadSetting(f"--rerank takes depths such as 10, or 5,10,50, not {typed!r}")
    return tuple(map(int, parts))


def _depth(hint: Any, tokens: Sequence[Any]) -> int:
    """Parse a single depth; 0 for no reranking."""
    if [token.value.strip() for token in tokens] == ["0"]:
        return 0
    depths = _depths(hint, tokens)
    if len(depths) > 1:
        raise BadSetting("--rerank takes one depth here, such as 10; `freeret eval` takes several")
    return depths[0] if depths else 0


Depths = Annotated[
    tuple[int, ...],
    Parameter(
        converter=_depths,
        n_tokens=1,
        allow_repeating=True,
        help="How many of the top hits stage 2 reranks, such as 10, or 5,10,50 to measure several; "
        "may be given several times. Without it there is no stage 2.",
    ),
]
Depth = Annotated[
    int,
    Parameter(
        converter=_depth,
        help="How many of the top hits stage 2 reranks, such as 10; 0 for none.",
    ),
]
Filters = Annotated[
    list[str] | None,
    Parameter(
        name="--filter",
        negative=(),
        help="Only items with this metadata, written key=value, such as category=food or "
        "year=1993. Several keys must all have their value; a key that is given several times "
        "must have one of them. Files have file and folder, and folder=animals finds the files of "
        "every folder of that name and of the folders in it; folder=pictures/animals works too.",
    ),
]
Kinds = Annotated[
    list[Modality] | None,
    Parameter(
        name="--kind",
        negative=(),
        help="Only items that hold content of this kind; may be given several times for any of "
        "them. A picture with a caption holds an image and a text.",
    ),
]
Hybrid = Annotated[
    bool | None,
    Parameter(
        help="Search for the words of the query too, or by vectors alone; by default as the recipe "
        "says. Each hit then has its cosine, its BM25 score and its rank by both.",
    ),
]
Task = Annotated[
    str | None,
    Parameter(
        help="Search task: same meaning, question, classification, fact check, caption, composed "
        "change, or free text. Needs a store whose recipe has the control prompt."
    ),
]

TextField = Annotated[str, Parameter(help="Column of a table that holds the text.")]
IdField = Annotated[str, Parameter(help="Column that holds the id.")]
ImageField = Annotated[
    str | None,
    Parameter(help="Column that holds a picture: its path beside the table, or its bytes."),
]
VideoField = Annotated[
    str | None,
    Parameter(help="Column that holds a video, in the same way as --image-field."),
]
AudioField = Annotated[
    str | None,
    Parameter(help="Column that holds a sound, in the same way as --image-field."),
]


@dataclass(frozen=True)
class Columns:
    """Options that say which columns of a table hold the content."""

    text_field: TextField = "text"
    id_field: IdField = "id"
    image_field: ImageField = None
    video_field: VideoField = None
    audio_field: AudioField = None

    def listing(
        self, paths: Sequence[str], *, skip_bad: bool, metadata_field: list[str] | None = None
    ) -> "Listing":
        """List the files to index, and check the beginnings of their tables.

        Raises:
            BadItem: A path leads to nothing; unless bad items are skipped, also for a file or a
                first row of a table that cannot be read.
            BadSetting: No table has a column that was named.
        """
        from freeret.sources.columns import check_columns
        from freeret.sources.files import Files

        files = Files(paths, on_error="skip", metadata_fields=metadata_field, **asdict(self))
        listing = files.listing()
        with skip_bad_hint(skip_bad):
            if not skip_bad:
                if listing.bad:
                    raise listing.bad[0]
                listing = replace(listing, source=replace(files, on_error="raise"))
            check_columns(listing)
        return listing


@contextmanager
def skip_bad_hint(skip_bad: bool) -> Iterator[None]:
    """Name the option that goes on without bad items in the error of one, unless it is given."""
    try:
        yield
    except BadItem as error:
        if skip_bad:
            raise
        raise BadItem(f"{error}; --skip-bad goes on without it", error.item) from None


Memory = Annotated[
    float,
    Parameter(
        validator=Number(gte=0),
        help="GiB that the vectors may take in memory; a larger store is read block by block.",
    ),
]

Model = Annotated[
    str,
    Parameter(help="Alias of an embedded backbone (smollm2-135m), a model folder, or a hub id."),
]
RecipeName = Annotated[
    str,
    Parameter(
        help="The choice of prompt, site, geometry and frame: auto (the recipe of the store; where "
        "there is none yet, the one that the model's probe report supports: a model without a "
        "report is probed first, which takes minutes), paper (fixed; it needs no probing), or the "
        "path of a recipe.json that `freeret probe` wrote."
    ),
]
EngineName = Annotated[
    Engine,
    Parameter(help="Where the work runs: in this process, or on actors of Ray, a backbone each."),
]
Actors = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1),
        help="Number of Ray actors; by default one per GPU, or one per machine without a GPU.",
    ),
]
Address = Annotated[
    str | None,
    Parameter(help="Address of a running Ray cluster, or auto; by default Ray is started here."),
]
Moved = Annotated[
    str | None,
    Parameter(help="New path or hub id of the store's model, if it has moved."),
]
Settings = Annotated[Loading, Parameter(name="*", parse=re.compile("^(?!images$|videos$)"))]
"""An option for each field of `Loading`, but not for mappings, which nobody would type."""
AS_USUAL = Loading()
LEXICAL: dict[bool | None, Lexicality] = {None: "auto", True: "on", False: "off"}
"""The argument of `FreeRet.search` for each value of --hybrid."""
ColumnNames = Annotated[Columns, Parameter(name="*")]
USUAL_COLUMNS = Columns()


@dataclass(frozen=True)
class SearchOptions:
    """Options that say which items of a store are searched, and how."""

    rerank: Depth = 0
    filter: Filters = None
    kind: Kinds = None
    hybrid: Hybrid = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of `FreeRet.search`. Raises BadSetting for a filter that is none."""
        from freeret.store.filters import parse_filter

        return {
            "rerank": self.rerank,
            "filter": parse_filter(self.filter or ()),
            "kinds": self.kind,
            "lexical": LEXICAL[self.hybrid],
        }


@dataclass(frozen=True)
class StoredModel:
    """Options that say where the model of a store is, and how it is loaded."""

    model: Moved = None
    loading: Settings = AS_USUAL

    def open(self, store: str, memory: float = MEMORY, *, progress: bool = True) -> "FreeRet":
        """Load the model of a store, for searching the store."""
        from freeret.retriever import FreeRet

        return FreeRet.load(
            store, self.model, loading=self.loading, progress=progress, memory=memory
        )


Searching = Annotated[SearchOptions, Parameter(name="*")]
USUAL_SEARCH = SearchOptions()
Reopened = Annotated[StoredModel, Parameter(name="*")]
AS_STORED = StoredModel()
