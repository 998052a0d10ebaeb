"""Contingency tables and the scores read off them. NumPy only."""
