"""The verbs of vol3d: train, predict, evaluate, check, info. The only room that unpacks a configuration."""
