"""Files ↔ `Volume`: the only code that permutes axes between a stored order and (C, X, Y, Z)."""
