"""What every test may ask for: backbones over tiny random models, and over real weights."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import config, install_import_hook

# Workers of pytest-xdist share the cores, and tiny models are ten times slower on two threads.
torch.set_num_threads(1)

# No deadline: a first forward is slow. No database: tests leave no files behind.
settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("tests")


import tests.checking  # noqa: E402, F401  (the hook looks it up as an attribute)

install_import_hook(["probes", "freeret"], "tests.checking.checked")


@pytest.fixture(autouse=True)
def assumed_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are cut by what they are assumed to cost. Where that is measured, the times of a busy
    machine decide how they are cut, and with it the last digits of what is computed next."""
    cost._fixed_costs.clear()
    monkeypatch.setattr(cost, "_measured", lambda _, usual: usual.fixed)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the checks above: what a user meets who hands over something of the wrong type."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


from probes.model.backbone import Backbone  # noqa: E402
from probes.model.batches import cost  # noqa: E402
from tests.models import MULTIMODAL, TEXT, tokenizer  # noqa: E402


@functools.cache
def load_tiny(name: str) -> Backbone:
    if name in TEXT:
        return Backbone.load(TEXT[name](), tokenizer=tokenizer())
    model, processor = MULTIMODAL[name]()
    return Backbone.load(model, processor=processor)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Backbone]:
    """`tiny("llama")`: a backbone over a random model, each made once. Leave it as it is."""
    return load_tiny


@pytest.fixture(scope="session")
def smollm2() -> Backbone:
    return Backbone.load("smollm2-135m")


@pytest.fixture(scope="session")
def gemma() -> Backbone:
    return Backbone.load("gemma3-270m")


@pytest.fixture(scope="session")
def qwen() -> Backbone:
    return Backbone.load("qwen2.5-coder-0.5b")


@pytest.fixture(scope="session")
def smolsight() -> Backbone:
    return Backbone.load("smolsight")


@pytest.fixture(params=["smollm2", "gemma", "qwen", "smolsight"])
def real(request: pytest.FixtureRequest) -> tuple[str, Backbone]:
    """Each backbone over real weights by its name, one of which reads pictures."""
    return request.param, request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def bucket() -> Iterator[Any]:
    """A `buckets.Bucket`."""
    from tests.buckets import serve

    with serve() as served:
        yield served
