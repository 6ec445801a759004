"""Everything that is measured offline of a dataset: one test set, its parts, and other splits of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from training.dataset import Dataset
from training.evaluate import Comparison, Figures, compare, evaluate, figures
from training.fairness import GroupFigures, fairness
from training.folds import FoldFigures, by_user, refit, rolling_origin
from training.metrics import Scored
from training.models import Trained
from training.segments import SegmentFigures, segment_figures, segments
from training.train import train_all
from training.verdict import Verdict, alone, verdict

__all__ = ["Evaluation", "run_evaluation"]

POLICIES = ("PolicyB", "PolicyA")
AGAINST = ("item_based", "content", "popularity", "random")


@dataclass(frozen=True, eq=False)
class Evaluation:
    data: Dataset
    seed: int
    trained: Sequence[Trained]
    results: Mapping[str, Scored]
    """Model or baseline → the scored test part"""
    figures: Mapping[str, Figures]
    verdict: Verdict
    differences: Sequence[Comparison]
    """Of the policies, if there are two, then of the leader against the rest"""
    segments: Sequence[SegmentFigures]
    """Of the leader and its rival, `compared`"""
    small_segments: Sequence[str]
    compared: tuple[str, str]
    """The leader, and the other policy or else the popularity baseline"""
    folds: Sequence[FoldFigures]
    fairness: Mapping[str, Sequence[GroupFigures]]
    """By model, of `compared`"""
    small_groups: Sequence[str]


def run_evaluation(
    data: Dataset, *, seed: int = 0, notice: Callable[[str], None],
    progress: Callable[[str], None] = lambda name: None,
) -> Evaluation:  # fmt: skip
    """Train on the first part of `data` and measure on the rest; then train anew on folds.

    `progress` hears what begins, `notice` of models that are left out. The same data and seed give the same result.
    """
    examples, trained, _ = train_all(data, seed=seed, notice=notice, progress=progress)
    progress("figures")
    results = evaluate(examples, trained, data.test, seed)
    found = figures(results, seed)
    progress("differences")
    policies = [name for name in POLICIES if name in results]
    differences = [compare(results, policies[0], policies[1], seed)] if len(policies) == 2 else []
    said = verdict(differences[0]) if differences else alone(policies[0])
    leader = said.leader
    differences += [compare(results, leader, name, seed) for name in AGAINST if name in results]
    progress("segments")
    compared = leader, next((name for name in policies if name != leader), "popularity")
    parts, small = segment_figures(
        results[compared[0]], results[compared[1]], segments(examples, data.test), seed
    )  # fmt: skip
    groups = {name: fairness(results[name], data, data.test, seed) for name in compared}
    folds = refit(
        examples, [*rolling_origin(data), *by_user(data)], [one.name for one in trained], seed=seed, progress=progress
    )
    return Evaluation(
        data=data,
        seed=seed,
        trained=trained,
        results=results,
        figures=found,
        verdict=said,
        differences=differences,
        segments=parts,
        small_segments=[f"{one.kind} {one.name}" for one in small],
        compared=compared,
        folds=folds,
        fairness={name: judged for name, (judged, _) in groups.items()},
        small_groups=groups[leader][1],
    )
