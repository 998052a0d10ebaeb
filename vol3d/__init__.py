"""Dense 3-D segmentation from sparsely annotated volumes."""
