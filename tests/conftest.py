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


@pytest.fixture(scope="module")
def blank_pictures():
    """Pictures are put together but not rendered, which takes a third of a second each; others look at them."""
    from vol3d.io import atomic
    from vol3d.report import figure

    def save(_drawing, path):
        with atomic.replace(path) as temporary:
            temporary.write_bytes(b"\x89PNG\r\n\x1a\n")
        return Path(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figure, "save_png", save)
        yield


@pytest.fixture
def known_seed():
    """torch's global generator from seed 0, for dropout; as it was afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
