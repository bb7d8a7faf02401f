"""Reports figures as tables, compares them with targets, and writes JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

from bench.figures import Figures
from bench.inputs import SENTENCES
from bench.plan import CROWD, TEXT_CROWD, Plan

REFERENCE_MB = 1480  # resident memory under load, OpenAI layout, on 2 cores
UNSTEADY = 0.25  # maximum relative difference of two runs of a loop within a minute
_LIKE_REFERENCE = ("openai", "sentence_transformers")  # families of that size


@dataclass(frozen=True)
class Goal:
    """A figure and its target; None if it has no target."""

    name: str
    value: float
    relation: Literal["at least", "at most"] = "at least"
    bound: float | None = None

    @property
    def verdict(self) -> str:
        """Return whether the target is reached, in words."""
        if self.bound is None:
            return ""
        at_least = self.relation == "at least"
        kept = self.value >= self.bound if at_least else self.value <= self.bound
        return "met" if kept else "missed"


def goals(figures: Figures, plan: Plan) -> list[Goal]:
    """Return the measured figures that have targets, mostly ratios."""
    own = [_text_goals(figures, plan)] if plan.is_text_only else _image_goals(figures)
    found = [*chain(*own), *_resource_goals(figures, plan)]
    return [goal for goal in found if not math.isnan(goal.value)]


def _image_goals(f: Figures) -> Sequence[Iterator[Goal]]:
    return _rate_goals(f), _latency_goals(f)


def _text_goals(f: Figures, plan: Plan) -> Iterator[Goal]:
    if plan.family == "model2vec":
        again = f.load_ratio("texts/16", "repeats")
        yield Goal("texts, 16 clients / the same again", again, bound=0.9)
        return
    bound = 0.9 if plan.family == "bge-base" else 0.8
    texts = f.loop_ratio("texts/16", "bare/texts")
    yield Goal("texts, 16 clients / bare loop", texts, bound=bound)
    lone = f.median_ratio("texts/1", "lone/texts")
    yield Goal("a lone text's median / bare, one at a time", lone, "at most", 1.25)
    passages = f.loop_ratio("passages/16", "one/passages")
    yield Goal(f"texts of {SENTENCES} sentences / as the reference computes", passages, bound=1.25)
    pass_ms = 1e3 * TEXT_CROWD / f.loop_rate("bare/texts")
    p50_ms, p95_ms = (f.latency_ms("mix/search", percent) for percent in (50, 95))
    name = "a search during an import, p50 without half a pass / alone"
    yield Goal(name, (p50_ms - pass_ms / 2) / f.latency_ms("search/1", 50), "at most", 1.5)
    yield Goal("a search during an import, p95 / a pass", p95_ms / pass_ms, "at most", 2)


def _rate_goals(f: Figures) -> Iterator[Goal]:
    bare, one = "bare/images", "one/images"
    yield Goal("images, 16 clients / bare loop", f.loop_ratio("images/16", bare), bound=0.9)
    yield Goal("images, 4 clients / bare loop", f.loop_ratio("images/4", bare), bound=0.8)
    yield Goal("images, 16 clients / one at a time", f.loop_ratio("images/16", one), bound=2)
    yield Goal("images, 4 clients / one at a time", f.loop_ratio("images/4", one), bound=1.6)
    texts = f.loop_ratio("texts/16", "one/texts")
    yield Goal("texts, 16 clients / one at a time", texts, bound=4)
    again = f.load_ratio("repeats", "parse only")
    yield Goal("the same image again / handler that only parses", again, bound=0.5)


def _latency_goals(f: Figures) -> Iterator[Goal]:
    lone_text = f.median_ratio("texts/1", "one/texts")
    yield Goal("a lone text's median / one at a time", lone_text, "at most", 0.8)
    lone_image = f.median_ratio("images/1", "one/images")
    yield Goal("a lone image's median / one at a time", lone_image, "at most", 0.75)
    for percent, bound in ((50, 60), (95, 150)):
        value = f.latency_ms("mix/search", percent)
        yield Goal(f"a search during an import, p{percent}, ms", value, "at most", bound)
    yield Goal("ready during an import, p99, ms", f.latency_ms("mix/ready", 99), "at most", 50)
    alone_ms = f.latency_ms(f"texts/{CROWD}", 50)
    beside = f.latency_ms("turns/short beside long", 50) / alone_ms
    yield Goal("short texts beside long ones, p50 / without", beside, "at most", 2)
    for kind, bound in (("short", 300), ("long", 900)):
        value = f.latency_ms(f"bulk/search, {kind}", 95)
        yield Goal(f"a search behind bulks of {kind} texts, p95, ms", value, "at most", bound)


def _resource_goals(f: Figures, plan: Plan) -> Iterator[Goal]:
    if f.memory and plan.family == "minilm":
        yield Goal("memory under load, MB", f.memory.largest_mb, "at most", 350)
    elif f.memory and not plan.is_text_only:
        bound = 0.7 if plan.family in _LIKE_REFERENCE else None
        share = f.memory.largest_mb / REFERENCE_MB
        yield Goal(f"memory under load / {REFERENCE_MB} MB", share, "at most", bound)
    if f.start_s:
        start_s = statistics.median(f.start_s)
        yield Goal("start / bare import", start_s / statistics.median(f.import_s), "at most")
        yield Goal("start, s (the bound is for another machine)", start_s, "at most", 5.3)


def text(figures: Figures, plan: Plan) -> str:
    """Return the whole report as text."""
    parts = [_goal_table(goals(figures, plan)), _load_table(figures), _loop_table(figures)]
    return "\n\n".join([*filter(None, parts), *_notes(figures)])


def _goal_table(found: Sequence[Goal]) -> str:
    rows = [
        (g.name, _number(g.value), f"{g.relation} {g.bound:g}" if g.bound else "", g.verdict)
        for g in found
    ]
    return table(("ratio or figure", "reached", "target", ""), rows)


def _load_table(f: Figures) -> str:
    heads = ("load/clients", "/ bare loop", "/ one at a time", "per s", "p50 ms", "p95 ms",
             "p99 ms", "client cores", "errors")  # fmt: skip
    return table(heads, [_load_row(f, name) for name in f.loads])


def _load_row(f: Figures, name: str) -> tuple[str, ...]:
    loop = _loop_beside(name)
    ratios = [f.loop_ratio(name, f"{kind}/{loop}") for kind in ("bare", "one")]
    times = [f.latency_ms(name, percent) for percent in (50, 95, 99)]
    numbers = [*ratios, f.rate(name), *times, f.client_cpu(name)]
    errors = ", ".join(f"{count} {reason}" for reason, count in f.errors(name).items())
    return (name, *map(_number, numbers), errors or "0")


def _loop_beside(load: str) -> str:
    """Return the loop of the bare model that a load is compared with."""
    return {"mix/import": "images", "open": "images"}.get(load, load.split("/")[0])


def _loop_table(f: Figures) -> str:
    rows = [(n, _number(f.loop_rate(n)), _number(f.loop_ms(n)), _about(f, n)) for n in f.loops]
    return table(("bare model", "per s", "ms a batch", ""), rows) if rows else ""


def _about(f: Figures, loop: str) -> str:
    settings = f.settings.get(loop)
    if not isinstance(settings, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _notes(f: Figures) -> Iterator[str]:
    if f.drift() > UNSTEADY:
        yield (
            f"NOT STEADY: the bare model's own rate changed by {f.drift():.0%} within a round, so "
            "something else ran on this machine; do not use these ratios"
        )
    if f.memory:
        yield (
            f"memory: {f.memory.largest_mb:.0f} MB under load, {f.memory.file_mb:.0f} MB of it "
            f"pages of files; {f.memory.peak_mb:.0f} MB at its peak since the start"
        )
    if f.memory_with_larger:
        yield f"memory with larger images: {f.memory_with_larger.largest_mb:.0f} MB"
    yield (
        f"mix: {CROWD} clients import while one searches, one after the other. Clients and "
        "service share the cores of one machine where it is measured locally."
    )


def as_json(figures: Figures, plan: Plan, about: dict[str, object]) -> dict[str, Any]:
    """Return all measurements, for the record."""
    return {
        **about,
        "plan": asdict(plan),
        "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in goals(figures, plan)],
        "loads": {name: _load_record(figures, name) for name in figures.loads},
        "loops": {
            name: [[run._asdict() for run in runs] for runs in rounds]
            for name, rounds in figures.loops.items()
        },
        "run_settings": figures.settings,
        "drift": figures.drift(),
        "memory": asdict(figures.memory) if figures.memory else None,
        "memory_with_larger_images": (
            asdict(figures.memory_with_larger) if figures.memory_with_larger else None
        ),
        "start_s": figures.start_s,
        "import_s": figures.import_s,
    }


def _load_record(f: Figures, name: str) -> dict[str, object]:
    return {
        "rate_per_s": [one.rate_per_s for one in f.loads[name]],
        "requests": [len(one.latencies_ms) for one in f.loads[name]],
        "latency_ms": {f"p{percent}": f.latency_ms(name, percent) for percent in (50, 95, 99)},
        "client_cores": [one.client_cpu for one in f.loads[name]],
        "errors": dict(f.errors(name)),
    }


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table with a column for each head."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(heads), "  ".join("-" * width for width in widths), *map(line, rows)])


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}"
