"""The peers of benchmarks/accuracy.py: a random forest as in ilastik, and a plain training script with MONAI."""

import time

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def random_forest(image: Array, truth: Array, mask: Array, _spacing: tuple[float, ...], _seconds: float) -> Array:
    """Pixel classification on multi-scale features; learns from every labeled voxel, 200 trees, until it is done.

    image: (X, Y, Z). truth: codes, looked at inside `mask` only. Returns codes (X, Y, Z).
    """
    from skimage.feature import multiscale_basic_features
    from sklearn.ensemble import RandomForestClassifier

    features = multiscale_basic_features(image / image.max(), sigma_min=1, sigma_max=8, num_sigma=4, workers=2)
    features = features.reshape(-1, features.shape[-1])
    rows = np.flatnonzero(mask)
    forest = RandomForestClassifier(200, max_depth=20, n_jobs=2, max_samples=0.3, random_state=0)
    forest.fit(features[rows], truth.ravel()[rows])
    parts = [forest.predict(features[start : start + 2**20]) for start in range(0, len(features), 2**20)]
    return np.concatenate(parts).reshape(image.shape)


def monai_script(image: Array, truth: Array, mask: Array, _spacing: tuple[float, ...], seconds: float) -> Array:
    """What one writes with MONAI in an afternoon: BasicUNet, patches around labeled voxels, flips, sliding window."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import BasicUNet

    begin = time.monotonic()
    ignored, classes = 255, int(truth.max()) + 1
    scaled = torch.from_numpy((image - image.mean()) / image.std())[None]
    labels = torch.from_numpy(np.where(mask, truth, ignored).astype(np.int64))
    places, size = np.argwhere(mask), [min(n, s) // 16 * 16 for n, s in zip(image.shape, (64, 64, 32), strict=True)]
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    network = BasicUNet(3, 1, classes, features=(16, 32, 64, 128, 128, 16))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    last = 0.0
    while time.monotonic() - begin < seconds - last:
        images, targets = [], []
        for _ in range(2):
            centre = places[rng.integers(len(places))]
            low = [int(np.clip(c - n // 2, 0, s - n)) for c, n, s in zip(centre, size, image.shape, strict=True)]
            cut = tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))
            axes = [axis for axis in range(3) if rng.random() < 0.5]
            images.append(scaled[(slice(None), *cut)].flip([1 + a for a in axes]))
            targets.append(labels[cut].flip(axes))
        optimizer.zero_grad()
        logits = network(torch.stack(images))
        torch.nn.functional.cross_entropy(logits, torch.stack(targets), ignore_index=ignored).backward()
        optimizer.step()
        if not last:
            last = _seconds_of_inference(network, scaled, size)
    network.eval()
    with torch.inference_mode():
        logits = sliding_window_inference(scaled[None], size, 4, network, overlap=0.25, mode="gaussian")
    return logits[0].argmax(0).numpy()


def _seconds_of_inference(network, scaled, size) -> float:
    """How long the sliding window will take, from one window."""
    import torch

    begin = time.monotonic()
    with torch.inference_mode():
        network(scaled[(None, slice(None), *(slice(0, n) for n in size))])
    windows = np.prod([max(1, -(-(n - 0.25 * s) // (0.75 * s))) for n, s in zip(scaled.shape[1:], size, strict=True)])
    return 1.2 * float(windows) * (time.monotonic() - begin)
