"""Opening: what any process needs to open the same store for indexing."""

from dataclasses import dataclass, replace

from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.sources.files import Listing
from freeret.store.recorded import reopen_backbone
from freeret.store.table import Store
from probes import Backbone, Loading
from probes.embedded import DEFAULT, SEEING


@dataclass(frozen=True)
class Opening:
    """Plain values that can be sent to another process, which loads the backbone from them."""

    store: str
    """Folder or object-store URL; it need not exist yet."""
    model: str
    loading: Loading
    """The settings that were given; a store that exists records the others."""
    recipe: Recipe | None = None
    """None for the recipe of the store, or else that of the backbone's probe report."""
    task: str | None = None
    """A task prior in place of the recipe's."""
    passage: int | None = None
    """Words of the passages that long texts are read in, in place of the recipe's."""

    def load(self) -> tuple[Backbone, Recipe]:
        """Load the backbone, and probe it where no recipe is known.

        Returns:
            The backbone, and the recipe with its task prior and its length of passages.

        Raises:
            BackboneNotFound, UnsupportedBackbone, BadSetting, OutOfMemory, StoreError.
        """
        store = Store.open(self.store) if Store.exists(self.store) else None
        if store is None:
            backbone = Backbone.load(self.model, self.loading)
        else:
            backbone = reopen_backbone(store, self.model, self.loading)
        recipe = self.recipe
        if recipe is None and store is not None:
            recipe = Recipe.from_json(store.recipe(), self.store)
        recipe = recipe_for(backbone, recipe)
        return backbone, replace(
            recipe, task=self.task or recipe.task, passage=self.passage or recipe.passage
        )


def model_for(location: str, model: str | None, listing: Listing | None = None) -> str:
    """The name of the backbone to load for a store: the one given, or else that of the store, or
    else the embedded one that reads the files to be stored."""
    if model is not None:
        return model
    if Store.exists(location):
        return Store.open(location).identity["backbone"]["model"]
    return SEEING if listing is not None and listing.shows() else DEFAULT
