"""Losses over labeled voxels only. Knows torch; masks after the activation."""
