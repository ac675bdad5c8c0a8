"""The threads of a worker: a short pass is not kept waiting by a long one, and one that lost its device ends them all."""

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import numpy as np
import pytest
import torch

from models.memory_errors import is_out_of_memory
from models.sparse.backends.tuning import bucket
from models.voxelize import Voxels
from service.worker.messages import PeerGone, receive, send
from service.worker.process import FATAL_EXIT, Worker, _what_went_wrong
from service.worker.warm_up import POINTS, sheet, sizes

GIVE_UP_S = 30.0
CLOUD = [np.zeros((3, 3), np.int32), np.ones((3, 2), np.float32)]  # coords and feats


class Layer:
    """A net of one layer, which takes until it is told to end."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def forward(self, batch: Sequence[Voxels]) -> torch.Tensor:
        self.begun.set()
        self.batch = batch
        assert self.end.wait(GIVE_UP_S)
        return torch.from_numpy(batch[0].feats)


def test_a_short_pass_is_answered_in_the_middle_of_a_layer_of_a_long_one() -> None:
    long, short = Layer(), Layer()
    short.end.set()
    with ExitStack() as open_ends:
        (compute, theirs), (express, their_express), (_, lifeline) = pairs = [socket.socketpair() for _ in range(3)]
        for end in (end for pair in pairs for end in pair):
            end.settimeout(GIVE_UP_S)
            open_ends.callback(end.close)
        worker = Worker(lifeline, "cpu", 0)
        worker._nets.update({"long": long, "short": short})  # type: ignore[dict-item]

        def passes() -> None:
            with suppress(PeerGone):
                worker.serve_passes(theirs)

        threads = [threading.Thread(target=passes), threading.Thread(target=worker.serve_express, args=(their_express,))]
        for thread in threads:
            thread.start()
        send(compute, {"model": "long", "variants": [None]}, CLOUD)
        assert long.begun.wait(GIVE_UP_S)
        send(express, {"model": "short", "variants": [None]}, CLOUD)
        _, [found] = receive(express)
        np.testing.assert_array_equal(found, CLOUD[1])
        long.end.set()
        _, [found] = receive(compute)
        np.testing.assert_array_equal(found, CLOUD[1])
        for end in (compute, express):
            end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_a_pass_knows_which_rows_vote() -> None:
    here, there = socket.socketpair()
    with here, there:
        worker, seen = Worker(there, "cpu", 0), Layer()
        seen.end.set()
        worker._nets["net"] = seen  # type: ignore[assignment]
        worker._forward({"model": "net", "variants": [[1, 2], None]}, [*CLOUD, *CLOUD])
    assert [voxels.variants for voxels in seen.batch] == [(1, 2), None]


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: an illegal memory access was encountered",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "Triton Error [CUDA]: device-side assert triggered",
        "an illegal memory access was encountered in query_cuda.cu",
        "Triton Error [CUDA]: misaligned address",
        "cudaErrorLaunchFailure: unspecified launch failure",
    ],
)
def test_a_worker_ends_where_its_device_has_failed(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of PyTorch, Triton and torchsparse."""

    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    service, lifeline = socket.socketpair()
    with service, lifeline, pytest.raises(Ended, match=str(FATAL_EXIT)):
        _what_went_wrong(RuntimeError(said), lifeline)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Triton Error [CUDA]: out of memory", "out_of_memory"),
        ("CUDA error: out of memory", "out_of_memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory"),
        ("out of resource: shared memory, Required: 300000, Hardware limit: 232448", "worker_failed"),
    ],
)
def test_a_worker_goes_on_where_only_a_pass_has_failed(said: str, code: str) -> None:
    service, lifeline = socket.socketpair()
    with service, lifeline:
        assert _what_went_wrong(RuntimeError(said), lifeline)["error"] == code


@pytest.mark.parametrize("largest", [100, 2048, 16_384, 1_000_000])
def test_no_pass_is_of_a_size_that_was_not_warmed_up(largest: int) -> None:
    """What runs quickest is known for all of them before the first request."""
    warm = [len(sheet(size, 1)) for size in sizes(largest)]
    assert max(warm) >= largest
    assert {bucket(size) for size in range(POINTS, largest + 1)} <= {bucket(size) for size in warm}


def test_it_is_warmed_up_on_a_surface() -> None:
    voxels = sheet(2_048, 4)
    assert 2_048 <= len(voxels) < 2_200
    assert len(np.unique(voxels.coords, axis=0)) == len(voxels)
    assert voxels.coords.min() >= 0
    assert voxels.feats.shape == (len(voxels), 4)


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory", "Triton Error [CUDA]: out of memory", "std::bad_alloc", "CUDNN_STATUS_ALLOC_FAILED"]
)
def test_no_memory_is_no_memory_whoever_says_so(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
