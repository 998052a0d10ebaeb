"""Do the slices that `vol3d suggest` names help more than others? A simulated painter, for docs/suggest.md.

    python benchmarks/suggest.py DATA [--only VOLUME ...] [--predictor network --minutes 3 --starts 1 --draws 1]

DATA: a folder with nuclei_a.h5, ovule_walls.h5, isbi2012_em.h5, mni152_t1.nii.gz and mni152_tissue.nii.gz. One slice
per axis is painted to begin with; then two, four and six more are, which are shown to the painter by one of

    suggest   vol3d's rule, two slices at a time, after each of which the predictor learns anew; from several starts
    even      evenly spaced slices of the same number, chosen anew each time; where they cannot be shared out equally
              among the axes, the mean over all ways to do so
    largest   the same, but all the added slices across the axis whose slices are largest
    random    drawn evenly among all slices of the volume, the mean of several draws

Every set of slices is compared with every evenly spaced one of the same number: mean IoU of all classes but background,
over those of 40,000 voxels, drawn once, that neither of the two covers. The same over voxels that no set at all covers
stands beside it. Evenly spaced slices are spread over the extent of the true labels, which nobody knows beforehand.
Rows are kept in benchmarks/results/suggest.jsonl and not run again; --only runs volumes anew.
"""

import argparse
import datetime
import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import few_slices
import numpy as np

from vol3d.sampling.suggestions import suggest_planes
from vol3d.volume import Affine, Volume

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "suggest.jsonl"
PAGE, CURVES = HERE.parent / "docs" / "suggest.md", HERE.parent / "docs" / "suggest.png"
BEGIN, END = "<!-- table: python benchmarks/suggest.py DATA -->", "<!-- end of table -->"
VOLUMES = ("nuclei_a", "ovule_walls", "isbi2012_em", "mni152")
ADDED = (2, 4, 6)
STARTS = ((0.5, 0.5, 0.5), (0.4, 0.6, 0.3), (0.7, 0.35, 0.65))  # of the labels' extent along x, y, z
SCORED = 40_000
CELLS = 40  # the predictor is asked for its uncertainty at about as many places along an axis
TREES, ROWS = 30, 12_000  # of the forest; voxels that each tree learns from

Plane = tuple[int, int]
Answer = Callable[[np.ndarray], np.ndarray]  # flat voxel numbers → class probabilities float32 (K, len)
Predictor = Callable[[np.ndarray], Answer]  # learns from the true labels in a mask (X, Y, Z)


@dataclass(frozen=True, eq=False)
class Sample:
    """image: Volume (1, X, Y, Z). dense: true codes 0…K−1, (X, Y, Z)."""

    image: Volume
    dense: np.ndarray

    @property
    def classes(self) -> int:
        """K."""
        return int(self.dense.max()) + 1


def sample(name: str, folder: Path) -> Sample:
    """A volume as it is compared: the sections of isbi2012_em cropped to 256², mni152 at every second voxel."""
    if name == "mni152":
        from vol3d import io

        image, tissue = io.read(str(folder / "mni152_t1.nii.gz")), io.read_labels(str(folder / "mni152_tissue.nii.gz"))
        spacing = tuple(2 * step for step in image.spacing_mm)
        array = np.ascontiguousarray(image.array[:, ::2, ::2, ::2])
        return Sample(Volume(array, Affine.from_spacing(spacing), name), tissue.array[0, ::2, ::2, ::2])
    raw = few_slices.volume(folder / f"{name}.h5", "raw")
    if name == "ovule_walls":
        from skimage.segmentation import find_boundaries

        cells = few_slices.volume(folder / f"{name}.h5", "instances").array[0]
        return Sample(raw, find_boundaries(cells, mode="thick").astype(np.uint8))
    dense = few_slices.volume(folder / f"{name}.h5", "label").array[0]
    if name == "isbi2012_em":
        middle = np.s_[..., 128:384, 128:384, :]
        raw, dense = Volume(np.ascontiguousarray(raw.array[middle]), raw.affine, raw.name), dense[middle]
    return Sample(raw, (dense > 0).astype(np.uint8))


def forest(given: Sample) -> Predictor:
    """A random forest on multi-scale features, of single sections where voxels are ten times as long as wide."""
    from skimage.feature import multiscale_basic_features
    from sklearn.ensemble import RandomForestClassifier

    image = given.image.array[0].astype(np.float32)
    image /= image.max()
    spacing = given.image.affine.spacing
    options = {"sigma_min": 1, "sigma_max": 8, "num_sigma": 4, "workers": 1}
    if spacing.max() > 5 * spacing.min():
        flat = int(spacing.argmax())
        sections = [multiscale_basic_features(one, **options) for one in np.moveaxis(image, flat, 0)]
        features = np.moveaxis(np.stack(sections), 0, flat)
    else:
        features = multiscale_basic_features(image, **options)
    features = features.reshape(-1, features.shape[-1]).astype(np.float32)
    truth = given.dense.ravel()

    def learn(mask: np.ndarray) -> Answer:
        known = np.random.default_rng(0).permutation(np.flatnonzero(mask))[: 5 * ROWS]
        part = min(1.0, ROWS / len(known))
        model = RandomForestClassifier(TREES, max_depth=20, n_jobs=2, max_samples=part, random_state=0)
        model.fit(features[known], truth[known])

        def answer(rows: np.ndarray) -> np.ndarray:
            shares = np.zeros((given.classes, len(rows)), np.float32)
            shares[model.classes_] = model.predict_proba(features[rows]).T
            return shares

        return answer

    return learn


def network(given: Sample, minutes: float) -> Predictor:
    """vol3d's own network as `vol3d train` plans it, trained for some minutes."""
    import vol3d

    dense = Volume(given.dense[None], given.image.affine, "dense")

    def learn(mask: np.ndarray) -> Answer:
        with tempfile.TemporaryDirectory() as run:
            done = vol3d.train(
                given.image,
                few_slices.painted(dense, mask),
                unlabeled=few_slices.UNLABELED,
                time_budget_s=60 * minutes,
                output=f"{run}/run",
                seed=0,
            )
            found = vol3d.predict(given.image, done.bundle, probabilities=True).probabilities
        shares = np.zeros((given.classes, given.dense.size), np.float32)
        shares[done.bundle.labels.codes] = found.reshape(len(found), -1)
        return lambda rows: shares[:, rows]

    return learn


class Simulation:
    """One volume and its predictor; every set of slices is learned from once."""

    def __init__(self, given: Sample, predictor: Predictor) -> None:
        self.given, self._predictor = given, predictor
        shape = given.dense.shape
        self.scored = np.sort(np.random.default_rng(0).permutation(given.dense.size)[:SCORED])
        self._steps = [max(1, n // CELLS) for n in shape]
        places = [np.arange(n)[step // 2 :: step] for n, step in zip(shape, self._steps, strict=True)]
        self._grid = tuple(map(len, places))
        self._rows = np.ravel_multi_index(np.meshgrid(*places, indexing="ij"), shape).ravel()
        self._answers: dict[frozenset[Plane], Answer] = {}
        self._codes: dict[frozenset[Plane], np.ndarray] = {}

    def mask(self, planes: list[Plane]) -> np.ndarray:
        """Voxels (X, Y, Z) in any of the planes."""
        mask = np.zeros(self.given.dense.shape, bool)
        for axis, index in planes:
            mask[(slice(None),) * axis + (index,)] = True
        return mask

    def answer(self, planes: list[Plane]) -> Answer:
        """What is predicted where these planes are painted; learned once."""
        key = frozenset(planes)
        if key not in self._answers:
            self._answers[key] = self._predictor(self.mask(planes))
        return self._answers[key]

    def suggested(self, planes: list[Plane], n: int) -> list[Plane]:
        """`n` planes more, as vol3d suggests them; the coarse grid's cells are repeated over the voxels around them."""
        shares = self.answer(planes)(self._rows).reshape(-1, *self._grid)
        entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(0) / np.log(len(shares))
        fine = [self._fine(values) for values in (entropy.clip(0, 1), shares.argmax(0).astype(np.uint8))]
        found = suggest_planes(*fine, self.mask(planes), self.given.image.spacing_mm, n)
        return planes + [(plane.axis, plane.index) for plane in found]

    def iou(self, planes: list[Plane], hidden: np.ndarray) -> float:
        """Mean foreground IoU on the scored voxels outside `hidden` (X, Y, Z)."""
        key = frozenset(planes)
        if key not in self._codes:
            self._codes[key] = self.answer(planes)(self.scored).argmax(0)
        return few_slices.foreground_iou(
            self._codes[key], self.given.dense.ravel()[self.scored], hidden.ravel()[self.scored]
        )

    def gain(self, planes: list[Plane], others: list[Plane]) -> float:
        """IoU with `planes` minus IoU with `others`, where neither covers a voxel."""
        hidden = self.mask(planes) | self.mask(others)
        return self.iou(planes, hidden) - self.iou(others, hidden)

    def _fine(self, values: np.ndarray) -> np.ndarray:
        for axis, (step, length) in enumerate(zip(self._steps, self.given.dense.shape, strict=True)):
            at = np.minimum(np.arange(length) // step, values.shape[axis] - 1)
            values = values.take(at, axis=axis)
        return values


def spread(dense: np.ndarray, counts: tuple[int, ...]) -> list[Plane]:
    """Evenly spaced planes, as in `few_slices.annotated`."""
    planes = []
    for axis, count in enumerate(counts):
        first, last = extent(dense, axis)
        planes += [(axis, round(first + (last - first) * (number + 0.5) / count)) for number in range(count)]
    return planes


def extent(dense: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last plane with any label but 0."""
    filled = np.flatnonzero((dense > 0).any(axis=tuple(a for a in range(3) if a != axis)))
    return int(filled[0]), int(filled[-1])


def begun(dense: np.ndarray, shares: tuple[float, ...]) -> list[Plane]:
    """One plane per axis to start from."""
    ends = [extent(dense, axis) for axis in range(3)]
    return [(axis, round(a + (b - a) * share)) for axis, ((a, b), share) in enumerate(zip(ends, shares, strict=True))]


def even_sets(dense: np.ndarray, added: int) -> list[list[Plane]]:
    """Every way to share 3 + `added` evenly spaced planes out among the axes as equally as possible."""
    base, rest = divmod(3 + added, 3)
    ways = itertools.combinations(range(3), rest)
    return [spread(dense, tuple(base + (axis in more) for axis in range(3))) for more in ways]


def largest_set(dense: np.ndarray, added: int) -> list[Plane]:
    """One plane per axis, and all added ones across the axis whose planes are largest."""
    shortest = int(np.argmin(dense.shape))
    return spread(dense, tuple(1 + added * (axis == shortest) for axis in range(3)))


def drawn(dense: np.ndarray, added: int, seed: int) -> list[Plane]:
    """The middle planes and some drawn ones; more are added to the same ones."""
    rng = np.random.default_rng(seed)
    every = [(axis, index) for axis, length in enumerate(dense.shape) for index in range(length)]
    planes = spread(dense, (1, 1, 1))
    others = [every[number] for number in rng.permutation(len(every)) if every[number] not in planes]
    return planes + others[:added]


def rows_of(name: str, simulation: Simulation, options: argparse.Namespace) -> list[dict]:
    """One row for every number of added slices, with every strategy's score."""
    dense = simulation.given.dense
    grown = [begun(dense, share) for share in STARTS[: options.starts]]
    rows = []
    for added in ADDED:
        grown = [simulation.suggested(planes, added - (len(planes) - 3)) for planes in grown]
        sets = {
            "suggest": grown,
            "even": even_sets(dense, added),
            "largest": [largest_set(dense, added)],
            "random": [drawn(dense, added, seed) for seed in range(options.draws)],
        }
        hidden = simulation.mask([plane for several in sets.values() for planes in several for plane in planes])
        scores = {way: [simulation.iou(planes, hidden) for planes in several] for way, several in sets.items()}
        gains = {
            way: [np.mean([simulation.gain(planes, even) for even in sets["even"]]) for planes in several]
            for way, several in sets.items()
            if way != "even"
        }
        even = np.mean([simulation.iou(planes, simulation.mask(planes)) for planes in sets["even"]])
        rows.append(
            {
                "volume": name,
                "predictor": options.predictor,
                "minutes": options.minutes if options.predictor == "network" else None,
                "added": added,
                "even": round(float(even), 4),
                "gains": {way: [round(float(gain), 4) for gain in found] for way, found in gains.items()},
                "uncovered": {way: [round(score, 4) for score in found] for way, found in scores.items()},
                "planes": {way: [[f"{'xyz'[a]}{i}" for a, i in s] for s in several] for way, several in sets.items()},
                "painted": {
                    way: round(float(np.mean([simulation.mask(planes).mean() for planes in several])), 4)
                    for way, several in sets.items()
                },
                "scored": round(float(1 - hidden.ravel()[simulation.scored].mean()), 3),
                "shape": dense.shape,
                "machine": few_slices.machine(),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            }
        )
        print(name, added, round(float(even), 4), {way: np.round(found, 4) for way, found in gains.items()}, flush=True)
    return rows


def kept() -> dict[tuple[str, str, int], dict]:
    """The rows that were run before; the last of each."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {(row["predictor"], row["volume"], row["added"]): row for row in rows}


def render(rows: dict[tuple[str, str, int], dict]) -> str:
    """The table, a line per predictor, volume and number of slices."""
    lines = [
        "| predictor | volume | slices | even: IoU | suggest − even | largest − even | random − even "
        "| suggest − even, on voxels no set covers | painted: suggest, even |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    said = []
    for predictor in sorted({key[0] for key in rows}):
        won, volumes = [], [name for name in VOLUMES if all((predictor, name, added) in rows for added in ADDED)]
        for name in volumes:
            several = [rows[predictor, name, added] for added in ADDED]
            lines += [f"| {predictor} | {name} | {_cells(row)} |" for row in several]
            won += [name] * bool(np.mean([np.mean(row["gains"]["suggest"]) for row in several]) > 0)
        said.append(
            f"With the {predictor}, suggested slices are better than evenly spaced ones, in the mean over 2, 4 and 6 "
            f"added slices, on {len(won)} of {len(volumes)} volumes ({', '.join(won) or 'none'})."
        )
    return "\n".join([*lines, "", *said])


def _cells(row: dict) -> str:
    gains = row["gains"]
    means = {way: float(np.mean(found)) for way, found in gains.items()}
    span = f" ({min(gains['suggest']):+.3f} to {max(gains['suggest']):+.3f})" if len(gains["suggest"]) > 1 else ""
    common = np.mean(row["uncovered"]["suggest"]) - np.mean(row["uncovered"]["even"])
    return (
        f"3 + {row['added']} | {row['even']:.3f} | {means['suggest']:+.3f}{span} | {means['largest']:+.3f} | "
        f"{means['random']:+.3f} | {common:+.3f} | "
        f"{100 * row['painted']['suggest']:.1f} %, {100 * row['painted']['even']:.1f} %"
    )


def draw(rows: dict[tuple[str, str, int], dict]) -> None:
    """Learning curves of the forest, a panel per volume: evenly spaced slices, and the gains over them."""
    from vol3d.report import figure as paper

    colors = {"suggest": paper.ACCENT, "even": paper.SECOND, "largest": "#8a6d3b", "random": paper.FAINT}
    names = [name for name in VOLUMES if all(("forest", name, added) in rows for added in ADDED)]
    drawing = paper.new_figure(2.7 * max(len(names), 1) + 0.4, 2.9)
    for number, name in enumerate(names):
        axes = drawing.add_subplot(1, len(names), number + 1)
        paper.quiet_axes(axes)
        several = [rows["forest", name, added] for added in ADDED]
        for way, color in colors.items():
            found = [row["even"] + np.array(row["gains"].get(way, [0.0])) for row in several]
            axes.plot(ADDED, [np.mean(one) for one in found], "o-", color=color, label=way, markersize=4)
            if way in ("suggest", "random"):
                axes.fill_between(ADDED, *([end(one) for one in found] for end in (min, max)), color=color, alpha=0.15)
        axes.set_xticks(ADDED)
        axes.set_title(name, fontsize=10, color=paper.INK, family=paper.FONT)
        axes.set_xlabel("slices added to the first three", fontsize=8, color=paper.INK, family=paper.FONT)
        if number == 0:
            axes.set_ylabel("mean foreground IoU", fontsize=8, color=paper.INK, family=paper.FONT)
            axes.legend(fontsize=7, frameon=False)
    drawing.tight_layout()
    paper.save_png(drawing, CURVES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=VOLUMES, metavar="VOLUME", help="run these anew")
    parser.add_argument("--predictor", choices=["forest", "network"], default="forest")
    parser.add_argument("--minutes", type=float, default=3, help="training of the network each time")
    parser.add_argument("--starts", type=int, choices=range(1, len(STARTS) + 1), default=len(STARTS))
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    for name in options.only or VOLUMES:
        if not options.only and all((options.predictor, name, added) in kept() for added in ADDED):
            continue
        given = sample(name, options.data)
        predictor = forest(given) if options.predictor == "forest" else network(given, options.minutes)
        rows = rows_of(name, Simulation(given, predictor), options)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    table = render(kept())
    draw(kept())
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
