"""Where to look, and the patches cut there. Knows torch only to wrap a data set."""
