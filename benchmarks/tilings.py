"""Tiled equals whole: the paper's network over one volume, several tilings against one pass over the mirrored whole.

    python benchmarks/tilings.py IMAGE [--tiles 132,132,116 108,132,100 ...]

Prints, for every tiling, the largest logit difference, that difference over the logit range, and the number of voxels
whose label differs. The weights are drawn (seed 0) and the statistics of BatchNorm measured on patches of the image.
"""

import argparse
import time

import numpy as np
import torch

from vol3d import io
from vol3d.config import UNetConfig
from vol3d.inference import plan_for, predict_slabs, whole_pass
from vol3d.networks import build, reestimate
from vol3d.transforms import Preprocessing, crop
from vol3d.volume import Box

TILINGS = ("132,132,116", "148,148,148", "188,132,188", "140,164,180", "156,188,132")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--tiles", nargs="+", default=TILINGS, metavar="X,Y,Z", help="input sizes, n ≡ 4 (mod 8)")
    options = parser.parse_args()
    prepared = Preprocessing().apply(io.read(options.image))
    channels, *shape = prepared.array.shape
    network = build(UNetConfig(padding="valid"), channels, 3)
    rng = np.random.default_rng(0)
    starts = [tuple(int(rng.integers(-20, 20)) for _ in shape) for _ in range(2)]
    reestimate(network, [torch.from_numpy(crop(prepared.array, Box(s, (132, 132, 116))))[None] for s in starts])
    network.eval()
    begin = time.perf_counter()
    whole = whole_pass(network, prepared.array)
    spread = float(whole.max() - whole.min())
    print(
        f"volume {'×'.join(map(str, shape))}, whole pass {time.perf_counter() - begin:.1f} s, logit range {spread:.4f}"
    )
    for text in options.tiles:
        tile = [int(n) for n in text.split(",")]
        plan = plan_for(network, tuple(shape), memory_bytes=1e11, bytes_per_voxel=2000.0, tile=tile)
        begin = time.perf_counter()
        slabs = list(predict_slabs(network, prepared.array, plan, logits=True))
        stitched = np.concatenate([slab.values for slab in slabs], axis=1)
        largest = float(np.abs(stitched - whole).max())
        differing = int((stitched.argmax(0) != whole.argmax(0)).sum())
        seconds = time.perf_counter() - begin
        print(
            f"tile {'×'.join(map(str, plan.size)):>12}: {len(plan.tiles):3d} tiles, {seconds:6.1f} s, "
            f"largest logit difference {largest:.2e} ({largest / spread:.1e} of the range), "
            f"labels that differ: {differing} of {whole[0].size}",
            flush=True,
        )


if __name__ == "__main__":
    main()
