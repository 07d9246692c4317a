"""Options that several commands share, each with its help."""

import re
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from probes.loading import Loading

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Count = Annotated[int, Parameter(validator=Number(gte=0))]

Model = Annotated[
    str,
    Parameter(help="Alias of an embedded backbone (smollm2-135m), a model folder, or a hub id."),
]
RecipeName = Annotated[
    str,
    Parameter(
        help="The choice of prompt, site, geometry and frame: auto (by the backbone's probe "
        "report; without one the backbone is probed first, which takes minutes), paper (fixed; it "
        "needs no probing), or the path of a recipe.json that `freeret probe` wrote."
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
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
    Parameter(help="Where the backbone is now, if not where it was when the store was made."),
]
Settings = Annotated[Loading, Parameter(name="*", parse=re.compile("^(?!images$|videos$)"))]
"""An option for each field of `Loading`, but not for mappings, which nobody would type."""
AS_USUAL = Loading()
