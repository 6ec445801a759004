"""What the process of a shadow may come to do, in place of a registered model (`router.shadow.Work`)."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

from router.shadow_worker import Question, answer
from sluice.errors import ModelUnusable
from sluice.settings import Settings


def reverse(pipe: Connection, settings: Settings, uri: str) -> None:
    """Scores the first item lowest."""
    answer(pipe, lambda question: ("7", [n / 1000 for n in range(len(question.items))]), "7")


def hang(pipe: Connection, settings: Settings, uri: str) -> None:
    def score(question: Question) -> tuple[str, Sequence[float]]:
        threading.Event().wait()
        raise AssertionError

    answer(pipe, score, "7")


def die(pipe: Connection, settings: Settings, uri: str) -> None:
    def score(question: Question) -> tuple[str, Sequence[float]]:
        os.abort()

    answer(pipe, score, "7")


def fail(pipe: Connection, settings: Settings, uri: str) -> None:
    def score(question: Question) -> tuple[str, Sequence[float]]:
        raise RuntimeError("no")

    answer(pipe, score, "7")


def not_a_number(pipe: Connection, settings: Settings, uri: str) -> None:
    def score(question: Question) -> tuple[str, Sequence[float]]:
        raise ModelUnusable("its scores are not finite")

    answer(pipe, score, "7")


def no_start(pipe: Connection, settings: Settings, uri: str) -> None:
    os.abort()
