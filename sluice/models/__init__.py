"""Trained models as files that need no unpickling: weights as JSON, trees as LightGBM's own text."""

from __future__ import annotations

from sluice.models.files import MODEL_FILE, TrainedModel, check_model, read_model, write_model
from sluice.models.linear import Linear
from sluice.models.trees import Trees

__all__ = ["MODEL_FILE", "Linear", "TrainedModel", "Trees", "check_model", "read_model", "write_model"]
