"""One scan stored in all 48 orientations gets the same labels, and every prediction its own scan's geometry.

    python benchmarks/orientations.py SCAN MODEL

Predicts the scan and its 48 turned copies, and compares labels voxel by voxel and geometry in nibabel and SimpleITK.
"""

import argparse
import itertools
import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

import vol3d
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.predict import predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan")
    parser.add_argument("model")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    bundle = vol3d.load_model(options.model)
    straight = nibabel.load(options.scan)
    choice = PredictOptions(preview=False)
    same_labels = same_geometry = total = 0
    with tempfile.TemporaryDirectory() as folder:
        reference = predict(options.scan, bundle, Path(folder) / "straight.nii.gz", options=choice).codes
        for order, flips in itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3)):
            turned = straight.as_reoriented(np.array([[new, flip] for new, flip in zip(order, flips, strict=True)]))
            scan, out = Path(folder) / f"scan{total}.nii.gz", Path(folder) / f"labels{total}.nii.gz"
            nibabel.save(turned, scan)
            predict(scan, bundle, out, options=choice)
            written = nibabel.load(out)
            back = nibabel.orientations.ornt_transform(
                nibabel.io_orientation(turned.affine), nibabel.io_orientation(straight.affine)
            )
            same_labels += np.array_equal(np.asarray(written.as_reoriented(back).dataobj), reference)
            same_geometry += same_in_both(scan, out)
            total += 1
    print(f"{options.scan}: labels equal in {same_labels} of {total} orientations")
    print(f"{options.scan}: geometry equal to the scan's in nibabel and SimpleITK in {same_geometry} of {total}")


def same_in_both(scan: Path, labels: Path) -> bool:
    """Shape, affine, spacing, origin and direction of two files, as nibabel and as SimpleITK read them."""
    one, two = nibabel.load(scan), nibabel.load(labels)
    left, right = SimpleITK.ReadImage(str(scan)), SimpleITK.ReadImage(str(labels))
    return (
        one.shape == two.shape
        and np.array_equal(one.affine, two.affine)
        and one.header["qform_code"] == two.header["qform_code"]
        and one.header["sform_code"] == two.header["sform_code"]
        and left.GetSize() == right.GetSize()
        and left.GetSpacing() == right.GetSpacing()
        and left.GetOrigin() == right.GetOrigin()
        and left.GetDirection() == right.GetDirection()
    )


if __name__ == "__main__":
    main()
