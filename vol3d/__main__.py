"""`python -m vol3d`."""

from vol3d.cli.main import run

if __name__ == "__main__":
    run()
