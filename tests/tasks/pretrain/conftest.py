import socket

import pytest
import torch

from tests.tasks.pretrain.material import TinyNet, drawn_patch


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch):
    """A network without depth in the patch encoder's place, and patches without files."""
    monkeypatch.setattr("microtome.tasks.pretrain.hidisc.srh_resnet34", TinyNet)
    monkeypatch.setattr("microtome.tasks.pretrain.patches.read_srh_patch", drawn_patch)


@pytest.fixture
def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
