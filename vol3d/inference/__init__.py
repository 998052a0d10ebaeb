"""Tiles, network, blend: a volume in, class probabilities out, slab by slab. Knows torch."""
