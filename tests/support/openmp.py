"""A machine on which LightGBM finds no OpenMP runtime."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest


def without_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on importing lightgbm fails as without libgomp, also where it was imported before."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_NoOpenMP(), *sys.meta_path])


class _NoOpenMP(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name == "lightgbm" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        raise OSError("libgomp.so.1: cannot open shared object file: No such file or directory")

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError("never reached")
