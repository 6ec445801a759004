"""A recommender as a folder of files that need no unpickling: JSON and NumPy arrays. Library: numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from sluice.errors import ModelUnusable
from sluice.models import Linear
from training.recommenders import ContentBased, ItemBased, Recommender

__all__ = ["read_recommender", "write_recommender"]

_ABOUT, _ARRAYS = "recommender.json", "arrays.npz"
_KINDS: dict[str, tuple[type[Recommender], str]] = {
    "item_based": (ItemBased, "similar"),
    "content": (ContentBased, "terms"),
}
"""Kind → class, and its sparse matrix"""


def write_recommender(folder: Path, kind: str, model: Recommender, items: Sequence[str]) -> None:
    """Write `model` to the folder. kind: `item_based` or `content`; items: the ids of its codes."""
    matrix: Any = sparse.csr_matrix(getattr(model, _KINDS[kind][1]))
    fitted = model.calibration
    assert fitted is not None
    calibration = {
        "mean": fitted.mean.tolist(), "scale": fitted.scale.tolist(), "weights": fitted.weights.tolist(),
        "intercept": fitted.intercept,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    about = {"kind": kind, "calibration": calibration, "items": list(items)}
    (folder / _ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    np.savez_compressed(
        folder / _ARRAYS, item_mean=model.item_mean, data=matrix.data, indices=matrix.indices, indptr=matrix.indptr,
        shape=np.array(matrix.shape),
    )  # fmt: skip


def read_recommender(folder: Path) -> tuple[Recommender, list[str]]:
    """What `write_recommender` wrote, and the ids of its items. Raises ModelUnusable when it is not there or broken."""
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        kind, name = _KINDS[about["kind"]]
        fitted = about["calibration"]
        mean, scale, weights = (np.array(fitted[key]) for key in ("mean", "scale", "weights"))
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            parts = arrays["data"], arrays["indices"], arrays["indptr"]
            matrix = sparse.csr_matrix(parts, shape=tuple(arrays["shape"].tolist()))
            item_mean = arrays["item_mean"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnusable(f"{folder}: no recommender of ours: {error}") from error
    return kind(
        item_mean=item_mean, calibration=Linear(mean, scale, weights, fitted["intercept"]), **{name: matrix}
    ), about["items"]
