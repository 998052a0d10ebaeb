"""Spatial augmentation on one thread: seconds for a crop of 132×132×116 out of 256×256×200, peers side by side.

    python benchmarks/augmentation.py

Every row deforms, rotates and scales an image (linear) and a label map (nearest). Peers that are not installed are left
out and said to be. vol3d's rows: `RandSparsePatchd`, which MONAI pipelines use, and `cut_patch`, which training uses:
image, classes and the weight of every voxel; for a network that answers everywhere, and for the paper's, which answers
for 44×44×28 of it. The error is that of `cut_patch` against the same warp in float64 by SciPy, in units of the
intensity range. The ratio is the fastest peer's time over that of `RandSparsePatchd`: the same work.
"""

import numpy as np
import scipy.ndimage
import torch
from side_by_side import keep, seconds, show

from vol3d.transforms import SpatialAugmentation, cut_patch, sampling_grid
from vol3d.transforms.monai import RandSparsePatchd

SHAPE, CROP = (256, 256, 200), (132, 132, 116)
ONE = (1.0, 1.0, 1.0)
CORNER = tuple(slice(0, n) for n in CROP)


def monai_peer(image: torch.Tensor, label: torch.Tensor):
    from monai.transforms import Compose, Rand3DElasticd, RandSpatialCropd

    both = ["image", "label"]
    chain = Compose(
        [
            RandSpatialCropd(both, CROP, random_size=False),
            Rand3DElasticd(
                both,
                (5, 8),
                (50, 150),
                prob=1,
                rotate_range=(0.3,) * 3,
                scale_range=(0.2,) * 3,
                mode=["bilinear", "nearest"],
                padding_mode="reflection",
            ),
        ]
    )
    return lambda: chain({"image": image, "label": label.float()})


def torchio_peer(image: torch.Tensor, label: torch.Tensor):
    import torchio

    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=image[:, *CORNER]), label=torchio.LabelMap(tensor=label[:, *CORNER])
    )
    chain = torchio.Compose([torchio.RandomElasticDeformation(7, 7), torchio.RandomAffine((0.8, 1.2), 15)])
    return lambda: chain(subject)


def batchgenerators_peer(image: torch.Tensor, label: torch.Tensor):
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    warp = SpatialTransform(
        CROP,
        0,
        True,
        p_elastic_deform=1,
        elastic_deform_scale=(0.1, 0.2),
        p_rotation=1,
        rotation=(-0.3, 0.3),
        p_scaling=1,
        scaling=(0.8, 1.2),
        bg_style_seg_sampling=False,
    )
    wide = label.to(torch.int16)
    return lambda: warp(image=image, segmentation=wide)


def elasticdeform_peer(image: torch.Tensor, label: torch.Tensor):
    import elasticdeform

    pair = [image[0][CORNER].numpy(), label[0][CORNER].numpy()]
    rng = np.random.default_rng(0)
    return lambda: elasticdeform.deform_grid(pair, rng.normal(0, 4, (3, 6, 6, 6)), order=[1, 0], mode="mirror")


PEERS = {
    "MONAI Rand3DElasticd": monai_peer,
    "TorchIO elastic, then affine": torchio_peer,
    "batchgeneratorsv2 SpatialTransform": batchgenerators_peer,
    "elasticdeform, order 1 and 0 (no rotation)": elasticdeform_peer,
}


def ours(image: torch.Tensor, label: torch.Tensor, margin: tuple[int, int, int], known: torch.Tensor | None = None):
    """What training does for a patch: draw, then cut image, classes and weight."""
    rng, weight = np.random.default_rng(0), torch.ones(label.shape[1:]) if known is None else known
    augment = SpatialAugmentation()

    def cut():
        params = augment.draw(rng, CROP, ONE)
        return cut_patch(image, label[0], weight, params, ONE, CROP, margin, (66, 66, 58), (128, 128, 100))

    return cut


def error(image: torch.Tensor) -> float:
    """Largest difference to SciPy's warp in float64, for one draw, in units of the intensity range."""
    size, at = (60, 52, 44), ((30, 20, 21), (100, 40, 150))
    params = SpatialAugmentation().draw(np.random.default_rng(1), size, ONE)
    nothing = torch.zeros(image.shape[1:], dtype=torch.uint8)
    patch, _, _ = cut_patch(image, nothing, nothing, params, ONE, size, (0, 0, 0), *at)
    grid = sampling_grid(params, size, ONE, *at).double().numpy()
    exact = scipy.ndimage.map_coordinates(image[0].double().numpy(), grid, order=1, mode="mirror")
    return float(np.abs(patch[0].numpy() - exact).max() / (image.max() - image.min()))


def on_gpu(image: torch.Tensor, label: torch.Tensor) -> dict:
    """The same cut from a volume that lies on a GPU; and how far its values are from those of the CPU."""
    augment, weight, wait = SpatialAugmentation(), torch.ones(label.shape[1:]), torch.cuda.synchronize
    params = augment.draw(np.random.default_rng(1), CROP, ONE)
    there = [array.cuda() for array in (image, label[0], weight)]
    cut = ours(there[0], there[1][None], (0, 0, 0), there[2])
    first, second = (
        cut_patch(*arrays, params, ONE, CROP, (0, 0, 0), (66, 66, 58), (128, 128, 100))[0].cpu()
        for arrays in ((image, label[0], weight), there)
    )
    row = {"method": "vol3d cut_patch, weight map, on the GPU", "seconds": seconds(lambda: (cut(), wait()), 20)}
    return {**row, "from the CPU's": float((first - second).abs().max() / (image.max() - image.min()))}


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, *SHAPE), dtype=np.float32))
    label = torch.from_numpy(rng.integers(0, 4, (1, *SHAPE)).astype(np.uint8))
    rows, fastest = [], float("inf")
    for name, build in PEERS.items():
        try:
            call = build(image, label)
        except ImportError as missing:
            print(f"{name}: not measured, {missing}")
            continue
        rows.append({"method": name, "seconds": seconds(call)})
        fastest = min(fastest, rows[-1]["seconds"])
    pair = {"image": image, "label": label}
    patch = RandSparsePatchd("image", "label", size=CROP)
    patch.set_random_state(0)
    rows.append({"method": "vol3d RandSparsePatchd", "seconds": seconds(lambda: patch(pair), 20)})
    same = rows[-1]["seconds"]
    rows.append({"method": "vol3d cut_patch, with a weight map", "seconds": seconds(ours(image, label, (0, 0, 0)), 20)})
    rows.append(
        {"method": "vol3d cut_patch, labels in 44×44×28", "seconds": seconds(ours(image, label, (88, 88, 88)), 20)}
    )
    if torch.cuda.is_available():
        rows.append(on_gpu(image, label))
    for row in rows:
        row["fastest peer over it"] = fastest / row["seconds"]
    show(rows)
    print(f"largest error against float64: {error(image):.1e} of the intensity range")
    keep("augmentation", rows, fastest / same, device="cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
