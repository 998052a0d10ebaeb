"""The classical peers of a network: methods that need no training worth the name, or feed one.

They are scored beside it on the same held-out labels, so that a run says what the network adds: shape-based
interpolation of the painted slices, a pixel classifier on hand-made features. Each is imported by its module. Arrays
and `SparseLabels` in, arrays out; may import `volume`, `errors`, numpy, SciPy, scikit-image and torch.
"""
