"""Stands in for a CUDA graph on a CPU: records every operation, and replays them at the same addresses.

As there, nothing is computed while recording (what was written is put back), Python does not run again in a
replay, and an operation that would wait for the device cannot be recorded.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique_dim", "_unique2", "masked_select")

INDEXED = ("index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put")


class Tape(TorchDispatchMode):
    """The operations of one recording."""

    def __init__(self):
        super().__init__()
        self.operations, self.before, self.made = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        indices = args[1] if name in INDEXED else ()
        if name in WAITS or any(is_tensor(index) and index.dtype == torch.bool for index in indices):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        written = [
            leaf
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for leaf in tree_leaves(value)
        ]
        written += [
            leaf
            for argument in func._schema.arguments
            if argument.name in kwargs and argument.alias_info is not None and argument.alias_info.is_write
            for leaf in tree_leaves(kwargs[argument.name])
        ]
        for tensor in written:
            place = place_of(tensor)
            if place not in self.made and place not in self.before:
                flat = tensor.detach()
                flat = flat.as_strided((flat.untyped_storage().nbytes() // flat.element_size(),), (1,), 0)
                self.before[place] = (flat, flat.clone())
        out = func(*args, **kwargs)
        fresh = []
        if not written:
            known = {place_of(leaf) for leaf in tree_leaves((args, kwargs)) if is_tensor(leaf)}
            fresh = [leaf for leaf in tree_leaves(out) if is_tensor(leaf) and place_of(leaf) not in known]
            self.made |= {place_of(leaf) for leaf in fresh}
        if written or fresh:  # else a view, which sees what its base holds
            self.operations.append((func, args, kwargs, out))
        return out

    def play(self):
        for func, args, kwargs, out in self.operations:
            new = func(*args, **kwargs)
            for old, now in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if is_tensor(old) and old.data_ptr() != now.data_ptr():
                    old.copy_(now)


def is_tensor(leaf):
    return isinstance(leaf, torch.Tensor)


def place_of(tensor):
    return tensor.untyped_storage().data_ptr()


def capture(run, static, generator):
    """Takes the place of `capture_cuda`."""
    tape, state = Tape(), generator.get_state()
    with tape:
        outputs = run(*static, generator=generator)
    with torch.no_grad():
        for place, values in tape.before.values():
            place.copy_(values)
    generator.set_state(state)

    def replay():
        with torch.no_grad():
            tape.play()
        return outputs

    return replay
