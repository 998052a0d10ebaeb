"""Classical peers scored beside the network. May import `volume`, `config`, `errors`, NumPy, SciPy and scikit-image."""
