"""CPU and GPUs: which there are, who may use which, what they can do, and how data get there. All that is particular to CUDA
stands in this file, and nothing here touches a GPU before a function is called: the server that workers are forked from must not.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from fuseline.errors import RecipeError

CPUINFO = Path("/proc/cpuinfo")
BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}
"""The flags by which Linux names them: Intel's and AMD's vectors, Intel's tiles, Arm's. Elsewhere bfloat16 is emulated."""

Device = str | torch.device


def resolve(wanted: str) -> str:
    """What is used when ``training.device`` is ``auto``, ``cpu``, ``cuda`` (all GPUs) or ``cuda:1`` (that one).

    Raises:
        RecipeError: there is no such GPU.
    """
    count = _gpus()
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted.startswith("cuda") and not (0 if wanted == "cuda" else torch.device(wanted).index) < count:
        others = "".join(f", 'cuda:{i}'" for i in range(count))
        raise RecipeError(f"training.device: {wanted!r} is not here; use 'cpu'{others} or 'auto'.")
    return wanted


def here(device: str) -> list[str]:
    """The devices that a resolved name stands for: ``['cpu']``, or one or all of the GPUs.

    >>> here("cpu"), here("cuda:1")
    (['cpu'], ['cuda:1'])
    """
    return [f"cuda:{i}" for i in range(_gpus())] if device == "cuda" else [device]


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextmanager
def seeded(seed: int, device: Device) -> Iterator[None]:
    """Seed the global generators of the CPU and of a device inside, and restore them afterwards; other GPUs' stay as they are.

    Inside, a GPU is the current one, so that nothing lands on the first by mistake.
    """
    device = torch.device(device)
    gpu = device.type == "cuda"
    with torch.cuda.device(device) if gpu else nullcontext(), torch.random.fork_rng(devices=[device] if gpu else []):
        reseed(seed, device)
        yield


def reseed(seed: int, device: Device) -> None:
    """Seed the global generators of the CPU and of a device."""
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def generator_now(device: Device) -> torch.Generator:
    """A generator that draws what a device's global one would draw next."""
    generator = torch.Generator(device)
    gpu = torch.device(device).type == "cuda"
    generator.set_state(torch.cuda.get_rng_state(device) if gpu else torch.get_rng_state())
    return generator


def global_states(device: Device) -> list[Tensor]:
    """The states of the global generators of the CPU and of a device."""
    gpu = torch.device(device).type == "cuda"
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if gpu else [])]


def set_global_states(states: Sequence[Tensor], device: Device) -> None:
    """Let the global generators of the CPU and of a device go on from states that they had."""
    torch.set_rng_state(states[0])
    if torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def send(tensor: Tensor, device: Device) -> Tensor:
    """A tensor on a device; already there, it is itself.

    On the way to a GPU nobody waits: it is copied into pinned memory and from there while the caller goes on. torch's allocator
    keeps that memory until the copy is done, and since it is ours the caller may change the tensor at once. (A tensor
    that is pinned already is read where it is, so it must be left alone.)
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Sent(NamedTuple):
    """A batch on its way to a device, and the event that says it is there (none on a CPU)."""

    batch: dict[str, Tensor]
    there: torch.cuda.Event | None


class Lane:
    """A way to a device beside its computing: threads send on a stream of its own, and who computes receives on its own stream.

    Each batch is staged in memory that is written once and dropped: torch's allocators, which know of both streams, keep
    pinned memory until it has been copied and a batch until the receiver's stream has used it.
    """

    def __init__(self, device: Device) -> None:
        self.device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":  # a thread's own current GPU is the first, whatever its maker's is
            self.device = torch.device("cuda", torch.cuda.current_device() if self.device.index is None else self.device.index)
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def staging(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An empty tensor on the CPU, pinned if the device is a GPU: to be written once and sent."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=self._stream is not None)

    def send(self, staged: Mapping[str, Tensor]) -> Sent:
        if self._stream is None:
            return Sent(dict(staged), None)
        with torch.cuda.stream(self._stream):
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in staged.items()}
            return Sent(batch, self._stream.record_event())

    def receive(self, sent: Sent) -> dict[str, Tensor]:
        """The batch, for use on the caller's current stream, which waits for it; the caller doesn't."""
        if sent.there is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(sent.there)
            for tensor in sent.batch.values():
                tensor.record_stream(stream)
        return sent.batch


def synchronise(device: Device) -> None:
    """Wait until a device has done all that it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: Device) -> int:
    """Bytes that may still be used: of a GPU what the driver has and what torch holds for reuse, of a CPU the available memory,
    to which what the kernel caches of files counts."""
    if torch.device(device).type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    return int(psutil.virtual_memory().available)


def has_bf16(device: Device) -> bool:
    """Whether a device has units for bfloat16; where it is emulated it is slower than float32."""
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(BF16_UNITS & set(_cpuinfo("flags", "Features").split()))


def autocast(device: Device, precision: str) -> AbstractContextManager[Any]:
    """Compute in ``float32`` or, where torch deems it safe, in ``bfloat16`` inside; for a forward pass and its loss."""
    if precision == "float32":
        return nullcontext()
    if precision == "bfloat16":
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    raise ValueError(f"expected 'float32' or 'bfloat16', not {precision!r}")


def machine() -> dict[str, Any]:
    """All that a timing on this machine depends on, as far as it can be told."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "units": torch.backends.cpu.get_cpu_capability(),
        "bf16": has_bf16("cpu"),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(_gpus())],
        "torch": str(torch.__version__),
    }


def _cpuinfo(*fields: str) -> str:
    """The first of some fields that the kernel tells of the first core; nothing where it tells none."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    told = dict(reversed([(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())]))
    return next((told[field] for field in fields if field in told), "")
