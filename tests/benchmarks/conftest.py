"""Benchmarks of tiny sizes; nothing is compiled."""

import sys

import pytest
import torch


@pytest.fixture
def no_compiler(monkeypatch):
    """torch.compile fails as on a machine without a C++ compiler."""

    def fail(*_, **__):
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", fail)


@pytest.fixture
def no_peers(monkeypatch):
    """torchebm and ebmkit cannot be imported, as where they are not installed."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("torchebm", "ebm"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("torchebm", "ebm"):
        monkeypatch.setitem(sys.modules, name, None)
