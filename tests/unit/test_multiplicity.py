"""Adjusted p-values against statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analyzer.engine.multiplicity import benjamini_hochberg, holm

METHODS = [(holm, "holm"), (benjamini_hochberg, "fdr_bh")]
p_values = st.lists(st.one_of(st.just(math.nan), st.floats(0, 1), st.sampled_from([0.01, 0.05, 1.0])), max_size=12)


@pytest.mark.parametrize(("adjust", "name"), METHODS)
# Few examples: statsmodels collects garbage at every call.
@settings(max_examples=12, deadline=None)
@given(p=p_values)
def test_they_are_those_of_statsmodels(adjust: object, name: str, p: list[float]) -> None:
    # statsmodels 0.15, multipletests(returnsorted=False); it knows no nan, which is no test here.
    found = adjust(p)  # type: ignore[operator]
    known = [x for x in p if not math.isnan(x)]
    wanted = iter(multipletests(known, method=name)[1]) if known else iter([])
    np.testing.assert_allclose(found, [math.nan if math.isnan(x) else next(wanted) for x in p], rtol=1e-12)


@pytest.mark.parametrize(("adjust", "name"), METHODS)
def test_rows_are_adjusted_one_by_one(adjust: object, name: str) -> None:
    p = np.random.default_rng(3).random((4, 5, 7))
    p[1, 2, 3] = math.nan
    found = adjust(p)  # type: ignore[operator]
    np.testing.assert_array_equal(found[1, 2], adjust(p[1, 2]))  # type: ignore[operator]
    assert (found >= p)[~np.isnan(p)].all()


@pytest.mark.parametrize(("adjust", "name"), METHODS)
@pytest.mark.parametrize("p", [0.5, [0.5, 1.1], [-0.1]])
def test_impossible_ones_are_named(adjust: object, name: str, p: object) -> None:
    with pytest.raises(ValueError, match=r"^p:"):
        adjust(p)  # type: ignore[operator]
