"""What the benchmarks of speed and memory share: timing, the table, and the file that results are kept in."""

import datetime
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from few_slices import machine

RESULTS = Path(__file__).parent / "results"


def seconds(call: Callable[[], object], runs: int = 5) -> float:
    """Median wall time of a call, once warmed up."""
    call()
    taken = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def show(rows: list[dict]) -> None:
    """The rows as a Markdown table; their keys in the order in which they come."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    print(f"| {' | '.join(keys)} |\n|{'---|' * len(keys)}")
    for row in rows:
        print(f"| {' | '.join(_told(row.get(key, '')) for key in keys)} |", flush=True)


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def keep(name: str, rows: list[dict], ratio: float | None = None, *, device: str = "cpu") -> None:
    """Add a run to results/NAME.jsonl: its rows, machine and date; print the ratio last. device: cpu or cuda."""
    run = {
        "machine": machine() if device == "cpu" else f"{torch.cuda.get_device_name()}, {machine()}",
        "load_before": round(os.getloadavg()[2], 2),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rows": rows,
        **({} if ratio is None else {"ratio": round(ratio, 2)}),
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
    if ratio is not None:
        print(f"ratio {ratio:.2f}")
