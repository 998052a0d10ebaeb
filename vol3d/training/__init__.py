"""The optimisation step, the loop around it, and its checkpoints. Never imports `inference`."""
