"""What the figures of an evaluation say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from training.evaluation import Evaluation
from training.fairness import GroupFigures
from training.metrics import CUTOFFS
from training.segments import MIN_USERS, SegmentFigures
from training.simultaneous import Interval
from training.verdict import points

__all__ = ["caveats", "fairness_words", "fold_words", "segment_words"]

_PEOPLE = {("gender", "F"): "women", ("gender", "M"): "men"}


def segment_words(found: Evaluation) -> list[str]:
    """Where the leader is weak, and where the two models differ."""
    leader, rival = found.compared
    if not found.segments:
        return [f"No segment has {MIN_USERS} users with clicks and without: nothing can be said of parts."]
    said = []
    for kind in dict.fromkeys(one.kind for one in found.segments):
        own = sorted((one for one in found.segments if one.kind == kind), key=lambda one: one.auc[0].value)
        low, high = own[0], own[-1]
        if low.auc[0].high < high.auc[0].low:
            said.append(
                f"By {kind}: {leader} separates clicks worst for {_part(low)} (AUC {low.auc[0].value:.3f}) and best "
                f"for {_part(high)} ({high.auc[0].value:.3f})."
            )
        elif len(own) > 1:
            said.append(
                f"By {kind}: AUC of {leader} between {low.auc[0].value:.3f} ({_part(low)}) and "
                f"{high.auc[0].value:.3f} ({_part(high)}); no evidence that these two differ."
            )
    for label, differences in (
        ("AUC", [(one, one.auc_difference) for one in found.segments]),
        ("Click rate at 1", [(one, one.ctr_at_1_difference) for one in found.segments if one.ctr_at_1_difference]),
    ):
        other = [f"{_part(one)} ({_signed(value)})" for one, value in differences if value and value.excludes_zero]
        if other:
            said.append(f"{label}: {leader} and {rival} differ for {', '.join(other)}.")
        elif differences:
            said.append(f"{label}: no evidence that {leader} and {rival} differ in any of {len(differences)} segments.")
    if found.small_segments:
        said.append(f"Too small to judge: {', '.join(found.small_segments)}.")
    return said


def fold_words(found: Evaluation, kind: str) -> str:
    """How often the leader is ahead, and how far figures move between folds."""
    leader, rival = found.compared
    own = {(one.number, one.model): one for one in found.folds if one.kind == kind}
    numbers = sorted({number for number, model in own if (number, leader) in own})
    if not numbers:
        return "The log is too short for these folds."
    rates = [own[number, leader].ctr_at_1 for number in numbers]
    said = f"{leader}'s click rate at 1 lies between {min(rates):.3f} and {max(rates):.3f} over {len(numbers)} folds"
    if any((number, rival) in own for number in numbers):
        ahead = [sum(_lead(own[n, leader], own[n, rival], key) for n in numbers) for key in ("ctr_at_1", "auc")]
        said += f"; it is ahead of {rival} in {ahead[0]} of them, by AUC in {ahead[1]}"
    return said + "."


def fairness_words(found: Evaluation) -> list[str]:
    """A summary of both models, then each group under the leader."""
    leader, rival = found.compared
    groups = found.fairness[leader]
    if not groups:
        reason = (
            f"The known groups are too small to judge ({', '.join(found.small_groups)})"
            if found.small_groups
            else "The data say nothing of their users: no gender, no age, no occupation"
        )
        return [f"{reason}. So nothing can be said of fairness, neither good nor bad."]
    said = [_summary(leader, groups), _summary(rival, found.fairness[rival])]
    said += [_group(one) for one in groups]
    if found.small_groups:
        said.append(f"Too small to judge: {', '.join(found.small_groups)}.")
    return said


def caveats(found: Evaluation) -> list[str]:
    """What the figures do not say."""
    said = [
        "The slates hold items that their users chose to rate. Among items that nobody has looked at yet, click "
        "rates will be lower and models may rank otherwise; only the live experiment tells.",
        "The test part is one stretch of time. Intervals speak of the luck of which users came, not of other times; "
        "the folds show how much figures move between stretches.",
        "Models stay as trained throughout the test part, while what is known of users and items goes on growing, as "
        "in the stream.",
        "Figures and differences hold 95 % each by itself. Intervals of segments hold together within a column, those "
        "of groups over all groups and both places.",
        "Parameters of the policies were chosen on the first 60 % of ml-100k and ml-latest-small. Rolling folds "
        "inside that part have therefore been looked at before.",
        "Folds by user train on slates that come later than some of those they test. They answer how models meet "
        "unknown users, not how they meet the future; models that keep means of items gain most from it.",
        "Accuracy, precision, recall and F1 call a click what has P(click) of 0.5 and more; ranking needs no such "
        "threshold.",
    ]
    if found.data.tags:
        said.append(
            "Tags given before the test part are known to `content` in every fold, also in those that begin earlier."
        )
    return said


def _summary(model: str, groups: Sequence[GroupFigures]) -> str:
    differing = [
        f"{_who(one)} at {k} ({points(one.difference[k].value)} points)"
        for one in groups for k in CUTOFFS if one.difference[k].excludes_zero
    ]  # fmt: skip
    unequal = [
        f"{_who(one)} at {k} ({points(one.gain_difference[k].value)} points)"
        for one in groups for k in CUTOFFS if one.gain_difference[k].excludes_zero
    ]  # fmt: skip
    said = f"{model}: " + (
        f"click rates differ for {', '.join(differing)}"
        if differing
        else f"no evidence that click rates differ in any of {len(groups)} comparisons of a group with all others"
    )
    return said + (
        f"; what the model adds above chance differs for {', '.join(unequal)}."
        if unequal
        else "; nor that what the model adds above chance does."
        if not differing
        else "; no evidence that what the model adds above chance does: it may lie in what they like."
    )


def _group(one: GroupFigures) -> str:
    parts = [f"at {k} {_signed(one.difference[k])}" for k in CUTOFFS]
    clear = {k: one.difference[k].value > 0 for k in CUTOFFS if one.difference[k].excludes_zero}
    if clear:
        verdict = ", ".join(f"{'more' if more else 'fewer'} clicks than all others at {k}" for k, more in clear.items())
    else:
        verdict = "no evidence of a difference"
    who = _who(one)
    return f"{who[0].upper()}{who[1:]} ({one.users:,} users): {verdict} ({', '.join(parts)})."


def _who(one: GroupFigures) -> str:
    return _PEOPLE.get((one.attribute, one.group), f"{one.attribute} {one.group}")


def _part(one: SegmentFigures) -> str:
    return f"“{one.name}”"


def _signed(value: Interval) -> str:
    text = f"{value.value:+z.3f} [{value.low:+z.3f}, {value.high:+z.3f}]"
    return text.replace("-", "−")


def _lead(one: object, other: object, key: str) -> bool:
    return bool(getattr(one, key) > getattr(other, key))
