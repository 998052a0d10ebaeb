"""The report of a run: one Markdown file beside the pictures it shows, readable without a server."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import quote

from vol3d.report.layout import length_text
from vol3d.report.markdown import code_block, duration, escape, number, signed, table
from vol3d.report.run_facts import MethodScores, RunReport, ScanFacts
from vol3d.volume import is_background

REPORT = "report.md"
_CLOSE = 0.005  # scores that differ by less are called alike
_MOST_COLUMNS = 5  # classes that are shown beside the scans
_DISCLAIMER = "vol3d is research software, not a medical device."


def write_run_report(folder: Path, facts: RunReport) -> Path:
    """Write `report.md` into a run folder, whole or not at all; returns its path.

    Pictures are linked by the names in `facts`, which lie in the same folder. What is missing is left out or said.
    """
    from vol3d.io import atomic

    sections = [
        f"# {escape(facts.title)}\n\n{_headline(facts)}",
        _warnings(facts),
        _scores(facts),
        _gain(facts),
        _slices(facts),
        _calibration(facts),
        _data(facts),
        _training(facts),
        _steps(facts),
        f"---\n\n{_DISCLAIMER}",
    ]
    path = folder / REPORT
    with atomic.replace(path) as temporary:
        temporary.write_text("\n\n".join(text for text in sections if text) + "\n", encoding="utf-8")
    return path


def _headline(facts: RunReport) -> str:
    """The result in one or two sentences."""
    if facts.values:
        return "On held-out labels: " + ", ".join(f"**{escape(k)} {v:.4g}**" for k, v in facts.values.items()) + "."
    if facts.network is None:
        return "**No labels were held out, so nothing here says how good the network is.**"
    alone = "" if math.isnan(facts.network.mean("iou", background=False)) else " without background"
    text = f"Mean IoU{alone} on held-out labels: **{number(facts.network.value)}**."
    return " ".join([text, *(_compared(facts.network, other) for other in facts.baselines)])


def _compared(network: MethodScores, other: MethodScores) -> str:
    gain = network.value - other.value
    said = f"{escape(other.name)} reaches {number(other.value)}"
    if math.isnan(gain):
        return f"{said[0].upper()}{said[1:]}."
    if abs(gain) < _CLOSE:
        return f"{said[0].upper()}{said[1:]}: the network is no better."
    if gain < 0:
        return f"**{said[0].upper()}{said[1:]}: better than the network.** Train longer, or paint more."
    return f"{said[0].upper()}{said[1:]}; the network adds {signed(gain)}."


def _warnings(facts: RunReport) -> str:
    if not facts.warnings:
        return ""
    return "## Warnings\n\n" + "\n".join(f"- {escape(text)}" for text in facts.warnings)


def _scores(facts: RunReport) -> str:
    parts = ["## Held-out labels", escape(facts.held_out[:1].upper() + facts.held_out[1:]) + "."]
    if facts.network is not None:
        head, rows = _score_rows(facts.network, facts.baselines)
        parts.append(table(head, rows))
        missing = [
            s.name for k, s in enumerate(facts.network.classes) if not _occurs(k, facts.network, facts.baselines)
        ]
        if missing:
            parts.append(f"Neither drawn nor predicted there: {', '.join(map(escape, missing))}.")
        parts.append(
            "IoU and Dice: 1 is perfect, 0 no overlap. Precision: part of what was predicted that is right; recall: "
            "part of what was drawn that was found. Means are over classes where a score is defined."
        )
        if any(one.note for one in facts.baselines):
            parts.append("\n".join(f"- {escape(b.name)}: {escape(b.note)}" for b in facts.baselines if b.note))
    elif facts.values:
        rows = [[escape(name), number(value, ".4g")] for name, value in facts.values.items()]
        parts.append(table(["score", "value"], rows))
    else:
        parts.append(
            "There are no scores and no pictures of errors. Paint at least four slices, or give dense labels of "
            "another scan to `vol3d evaluate`."
        )
    if facts.calibration is not None and facts.calibration.pool_weight:
        parts.append(
            "What is called the network here is the network together with the pixel classifier, which counts "
            f"{100 * facts.calibration.pool_weight:.0f} %. That share was chosen on these labels."
        )
    if facts.refitted and (facts.network is not None or facts.values):
        parts.append(
            "These scores are of the network **before** the held-out labels joined its training; the saved model has "
            "learned from them too."
        )
    return "\n\n".join(parts)


def _score_rows(network: MethodScores, baselines: tuple[MethodScores, ...]) -> tuple[list[str], list[list[str]]]:
    metrics = {"IoU": "iou", "Dice": "dice", "precision": "precision", "recall": "recall"}
    head = ["class", "voxels", *metrics, *(f"{escape(other.name)}: IoU" for other in baselines)]
    rows = []
    for place, score in enumerate(network.classes):
        if not _occurs(place, network, baselines):
            continue
        own = [number(vars(score)[key]) for key in metrics.values()]
        others = [number(other.classes[place].iou) for other in baselines]
        rows.append([escape(score.name), f"{score.voxels:,}", *own, *others])
    means = {"mean": True}
    if any(is_background(score.name) for score in network.classes) and len(network.classes) > 1:
        means["mean without background"] = False
    for name, background in means.items():
        own = [number(network.mean(key, background=background)) for key in metrics.values()]
        others = [number(other.mean("iou", background=background)) for other in baselines]
        chosen = [s.voxels for s in network.classes if background or not is_background(s.name)]
        rows.append([f"**{cell}**" for cell in (name, f"{sum(chosen):,}", *own, *others)])
    return head, rows


def _occurs(place: int, network: MethodScores, baselines: tuple[MethodScores, ...]) -> bool:
    """Whether a class was drawn, or predicted by any method."""
    return any(not math.isnan(one.classes[place].iou) for one in (network, *baselines))


def _gain(facts: RunReport) -> str:
    """What the new labels brought."""
    if facts.earlier is None or facts.network is None:
        return ""
    found = facts.earlier
    rows = [
        [escape(s.name), number(before), number(s.iou), signed(s.iou - before)]
        for s in facts.network.classes
        for before in [found.iou.get(s.name, math.nan)]
        if not (math.isnan(before) and math.isnan(s.iou))
    ]
    after = facts.network.mean("iou")
    rows.append([f"**{c}**" for c in ("mean", number(found.mean_iou), number(after), signed(after - found.mean_iou))])
    return "\n\n".join(
        [
            "## Before → after these labels",
            table(["class", "IoU before", "IoU after", "change"], rows),
            "Both are scored on the labels that this run held out; the earlier model had learned from those of them "
            "that were painted then, so that it looks better here than it is.",
        ]
    )


def _slices(facts: RunReport) -> str:
    if not facts.slices:
        return ""
    parts = ["## Held-out slices"]
    for shown in facts.slices:
        which = "The only slice" if shown.which == "only" else f"The {shown.which} slice"
        text = f"{which}: {escape(shown.name)}, {shown.mean} {number(shown.iou)}"
        parts.append(f"{text}\n\n![{escape(shown.name)}]({_link(shown.file)})")
    return "\n\n".join(parts)


def _calibration(facts: RunReport) -> str:
    found = facts.calibration
    if found is None:
        return ""
    if found.after is None:
        text = f"Expected calibration error on held-out labels: {number(found.before)}."
    else:
        text = f"Expected calibration error on held-out labels: {number(found.before)} before, {number(found.after)} "
        text += "after calibration."
    parts = [
        "## How sure it may be",
        f"{text} At an error of 0, the network is right in 80 % of the voxels where it is 80 % sure.",
    ]
    return "\n\n".join(parts + ([f"![Reliability]({_link(found.picture)})"] if found.picture else []))


def _data(facts: RunReport) -> str:
    """The scans; voxels per class beside them, or below, a line per class, where there are many classes."""
    head = ["scan", "grid x × y × z", "voxel", "labeled", "painted slices"]
    rows = [_scan_row(scan) for scan in facts.scans]
    names, counts = list(map(escape, facts.classes)), [[f"{n:,}" for n in scan.voxels] for scan in facts.scans]
    text = "Labeled voxels per class are counted on the grid that the network sees."
    if not names:
        return "\n\n".join(["## Data", table(head, rows)])
    if len(names) <= _MOST_COLUMNS:
        rows = [[*row, *own] for row, own in zip(rows, counts, strict=True)]
        return "\n\n".join(["## Data", table([*head, *names], rows), text])
    classes = [[name, *(own[place] for own in counts)] for place, name in enumerate(names)]
    below = table(["class", *(escape(scan.name) for scan in facts.scans)], classes)
    return "\n\n".join(["## Data", table(head, rows), below, text])


def _scan_row(scan: ScanFacts) -> list[str]:
    spacing = " × ".join(map(length_text, scan.spacing_mm))
    if scan.slices is None:
        painted = "everything" if scan.labeled == 1 else "no slices: most voxels are"
    else:
        painted = ", ".join(f"{escape(axis)}: {count}" for axis, count in scan.slices.items() if count) or "none"
    return [escape(scan.name), " × ".join(map(str, scan.shape)), spacing, _share(scan.labeled), painted]


def _share(part: float) -> str:
    """12.3 %; all of it only where it is all."""
    return "over 99.9 %" if 0.999 <= part < 1 else f"{100 * part:.3g} %"


def _training(facts: RunReport) -> str:
    t = facts.training
    rows = [
        ["task", escape(t.task)],
        ["network", f"{escape(t.network)}, {t.parameters:,} parameters"],
        ["patch", f"{' × '.join(map(str, t.patch))} voxels, {t.batch_size} at a time"],
        ["iterations", f"{t.iterations:,}"],
        ["time", f"{duration(t.seconds)} on {escape(t.device)}"],
        ["seed", str(t.seed)],
        ["vol3d", escape(t.version)],
    ]
    parts = ["## Training", table(["", ""], [[f"**{name}**", value] for name, value in rows], left=2)]
    parts += ["\n".join(f"- {escape(text)}" for text in facts.notes)] if facts.notes else []
    pictures = (
        ("Loss and held-out score", facts.curves),
        ("Scan, labels and prediction in three planes", facts.preview),
    )
    return "\n\n".join(parts + [f"![{name}]({_link(file)})" for name, file in pictures if file])


def _steps(facts: RunReport) -> str:
    if not facts.steps:
        return ""
    parts = [f"{escape(step.what)}:\n\n{code_block(step.commands)}" for step in facts.steps]
    return "\n\n".join(["## How to go on", *parts])


def _link(file: str) -> str:
    """A file of the same folder, as the target of a link."""
    return quote(Path(file).name)
