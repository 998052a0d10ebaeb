"""Synthetic volumes for the demo and for tests. Arrays only; `io` writes them."""
