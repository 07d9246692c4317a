"""Which judge of stage 2 a report supports, how much it counts, and which queries it sees."""

from probes import ProbeReport
from probes.measure.framing import FrameBias, best_frame
from probes.measure.reranking import gains_by_judge, surest_gain
from probes.stats import Interval, mean_of_means


def choose_judge(report: ProbeReport) -> tuple[str | None, float | None, float | None, str]:
    """Judge, fusion weight and cascade, or no judge where stage 2 does not earn its cost; and
    why."""
    best = best_frame(report.framing)
    gains = gains_by_judge(report.reranking)
    tried = surest_gain(report.reranking)[:2] if gains else None
    if tried is not None and gains[tried].low > 0:
        judge, weight = tried
        about = _describe_frame(best) if judge == best.frame else f"by {judge}"
        change = f"changes the mean reciprocal rank by {gains[tried]}{_by_set(report, tried)}"
        cascade, saving = _choose_cascade(report, tried, gains[tried])
        return judge, weight, cascade, f"{about}; reranking (weight {weight}) {change}{saving}"
    reasons = [_describe_frame(best)]
    for judge in dict.fromkeys(judge for judge, _ in gains):
        largest = max((g for g in gains if g[0] == judge), key=lambda tried: gains[tried].mean)
        reasons.append(
            f"the largest gain in mean reciprocal rank by {judge} (weight {largest[1]}), "
            f"{gains[largest]}, does not exceed noise"
        )
    return None, None, None, "; ".join(reasons)


def _describe_frame(bias: FrameBias) -> str:
    chance = "" if bias.discriminates else ", an interval that includes chance (0.5)"
    return (
        f"the best frame, {bias.frame}, separates matches from near-misses with an AUC of "
        f"{bias.auc}{chance}"
    )


def _choose_cascade(
    report: ProbeReport, tried: tuple[str, float], gain: Interval
) -> tuple[float | None, str]:
    """The lead beyond which no query of any set gained, and what it saves; None where skipping such
    queries loses more than a tenth of the gain."""
    sets = [f for f in report.reranking if (f.frame, f.weight) == tried]
    leads = [f.lead for f in sets if f.lead is not None]
    losses = [f.loss for f in sets if f.loss is not None]
    if not leads or not losses or (loss := mean_of_means(losses)).mean < -gain.mean / 10:
        return None, ""
    shares = ", ".join(f"{f.judged:.0%} of the {f.queries}" for f in sets)
    return max(leads), (
        f"; queries whose first hit leads by more than {max(leads):.2f} standard deviations are "
        f"not judged, which leaves {shares} to judge and changes the rank by {loss}"
    )


def _by_set(report: ProbeReport, tried: tuple[str, float]) -> str:
    """The gain on each query set, where there are several."""
    sets = [f for f in report.reranking if (f.frame, f.weight) == tried]
    if len(sets) == 1:
        return ""
    return f" ({', '.join(f'{f.queries} {f.gain}' for f in sets)})"
