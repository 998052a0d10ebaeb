"""Networks, one paper per file; dimension is data. Knows torch and, in `build.py`, MONAI."""
