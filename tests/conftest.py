import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("vol3d", deadline=None, max_examples=200, derandomize=True)
settings.load_profile("vol3d")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real volumes that lie beside the project on some machines."""
    folder = Path(os.environ.get("VOL3D_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("the real volumes are not here (set VOL3D_SHARED to the folder that holds data/)")
    return folder


@pytest.fixture(scope="module")
def single_threaded():
    """torch on one thread: tiny networks spend their time on waking threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def known_seed():
    """torch's global generator from seed 0, for dropout; as it was afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
