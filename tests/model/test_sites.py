"""Sites are read and written by name, with Python's indices, in order of execution."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import BadSetting
from probes.model.sites import Site, all_sites, late_sites


@pytest.mark.parametrize(
    "written",
    ["embed", "attn[0]", "attn[-1]", "mlp[12]", "mlp[-3]", "norm", "attn[-1]+mean", "norm+mean"],
)
def test_a_site_is_written_as_it_was_read(written: str) -> None:
    assert str(Site.parse(written)) == written
    assert Site.parse(Site.parse(written)) == Site.parse(written)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "attn",
        "mlp",
        "norm[0]",
        "attn[]",
        "attn[1.5]",
        "attn[1]x",
        "head",
        " norm",
        "+mean",
        "norm+max",
        "embed[1]",
    ],
)
def test_anything_else_is_refused_by_name(written: str) -> None:
    with pytest.raises(ValueError, match="is not a site"):
        Site.parse(written)


def test_negative_layers_count_from_the_end() -> None:
    assert Site.parse("attn[-1]").resolve(30) == Site("attn", 29)
    assert Site.parse("mlp[-30]").resolve(30) == Site("mlp", 0)
    assert Site.parse("norm").resolve(30) == Site("norm")
    assert Site.parse("attn[-1]+mean").resolve(30) == Site("attn", 29, mean=True)
    assert Site.parse("norm+mean").resolve(30).last == Site("norm")


@pytest.mark.parametrize("written", ["attn[4]", "mlp[-5]"])
def test_a_missing_layer_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="this backbone has 4 layers"):
        Site.parse(written).resolve(4)


@given(st.integers(1, 40))
def test_all_sites_are_in_order_of_execution(layers: int) -> None:
    sites = all_sites(layers)
    depths = [site.depth(layers) for site in sites]
    assert len(sites) == 2 * layers + 2
    assert depths == sorted(set(depths))
    assert [str(site) for site in sites[:3]] == ["embed", "attn[0]", "mlp[0]"]
    assert [str(site) for site in sites[-2:]] == [f"mlp[{layers - 1}]", "norm"]


@given(st.integers(1, 40), st.data())
def test_both_ways_of_counting_are_equally_deep(layers: int, data: st.DataObject) -> None:
    layer = data.draw(st.integers(0, layers - 1))
    for kind in ("attn", "mlp"):
        assert Site(kind, layer).depth(layers) == Site(kind, layer - layers).depth(layers)


def test_late_sites_end_at_the_norm() -> None:
    assert late_sites(2) == ["attn[-2]", "mlp[-2]", "attn[-1]", "mlp[-1]", "norm"]


def test_distances_to_the_end() -> None:
    expected = {"norm": 0, "mlp[-1]": 1, "attn[-1]": 2, "mlp[-2]": 3, "attn[-2]": 4, "mlp[-5]": 9}
    assert {site: Site.parse(site).distance_to_end for site in expected} == expected
    for site in ("embed", "attn[0]", "mlp[3]"):
        with pytest.raises(BadSetting, match="not counted from the end"):
            _ = Site.parse(site).distance_to_end
