"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import families, machine, report, wire
from bench.client import Target
from bench.figures import Figures
from bench.plan import Plan
from bench.run import run_here, run_there
from bench.service import ROOT

RESULTS = ROOT / "bench" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a request failed."""
    # SIGTERM becomes an exit, so that the servers are stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parse(arguments)
    plan = _plan(options)
    about = {"url": options.url, "api": options.api, "machine": machine.describe()}
    figures = _measure(options, plan)
    print(report.text(figures, plan))
    path: Path = (
        options.json or RESULTS / f"{_title(options)}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(figures, plan, about), indent=2) + "\n")
    print(f"\nwritten to {path}")
    return int(any(figures.errors(load) for load in figures.loads))


def _measure(options: argparse.Namespace, plan: Plan) -> Figures:
    if options.url:
        api = wire.openai(options.model) if options.api == "openai" else wire.reference()
        return run_there(Target.from_url(options.url), api, plan)
    api = wire.text_reference() if plan.is_text_only else wire.reference()
    return run_here(families.model_folder(plan.family), api, plan)


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        short = Plan(options.family, batches=(8, 32), rounds=1, starts=1, sizes=())
        return replace(short, clients=(1, 4, 16), seconds=2, rate_per_s=options.rate)
    return Plan(
        family=options.family,
        rate_per_s=options.rate,
        clients=tuple(options.clients),
        seconds=options.seconds,
        rounds=options.rounds,
    )


def _title(options: argparse.Namespace) -> str:
    return f"{options.api}-url" if options.url else str(options.family)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = Plan(families.DEFAULT)
    parser = argparse.ArgumentParser("bench", description="Measure the service.")
    add = parser.add_argument
    add("--family", choices=families.FAMILIES, default=families.DEFAULT, help="model to serve")
    add("--clients", type=int, nargs="+", default=defaults.clients, help="of the closed loops")
    add("--seconds", type=float, default=defaults.seconds, help="of each timed window")
    add("--rounds", type=int, default=defaults.rounds, help="measure everything so often")
    add("--rate", type=float, help="requests a second of the open loop")
    add("--quick", action="store_true", help="about a minute: one round, no other sizes")
    add("--url", help="measure a container that runs already, such as http://localhost:8080")
    add("--api", choices=("reference", "openai"), default="reference", help="what it speaks")
    add("--model", default="default/not-used", help="the model's name in OpenAI's format")
    add("--json", type=Path, help="where to write the record (bench/results/...)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
