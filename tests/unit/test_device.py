"""Names of devices: what is there is taken, anything else is refused with what is there."""

import logging
from collections.abc import Iterator

import pytest
import torch

from models.device import available_devices, known_device, parse_device, why_it_does_not_compute
from models.errors import BadOption


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    why_it_does_not_compute.cache_clear()
    yield
    why_it_does_not_compute.cache_clear()


def test_the_cpu_is_always_there() -> None:
    assert parse_device("cpu") == "cpu"


@pytest.mark.parametrize("text", ["banana", "", "CPU", "cpu:1", "cuda:99", "cuda:-1", "meta", "cuda:0 "])
def test_others_are_refused_with_what_is_there(text: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_device(text)
    assert caught.value.known == ("auto", *available_devices())


def test_cuda_is_taken_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadOption):
        parse_device("cuda")
    assert parse_device("auto") == "cpu"


@pytest.mark.usefixtures("two_devices")
def test_those_that_are_there_are_taken() -> None:
    assert [parse_device(name) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda", "cuda:0", "cuda:1"]
    with pytest.raises(BadOption):
        parse_device("cuda:2")


@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize(
    "said", ["CUDA error: no kernel image is available for execution on the device\nlonger", "CUDA out of memory. Tried to allocate"]
)
def test_one_that_does_not_compute_is_not_chosen(said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is there, and whoever asks for it by name gets it. A service that leaves the choice to its worker does not try it."""
    tried: list[object] = []

    def ones(*_: object, device: str) -> torch.Tensor:
        tried.append(device)
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "ones", ones)
    assert known_device("auto") == "auto"
    assert tried == []
    with caplog.at_level(logging.WARNING, "fip.device"):
        assert [parse_device("auto") for _ in range(2)] == ["cpu", "cpu"]
    assert said.partition("\n")[0] in caplog.text
    assert "longer" not in caplog.text
    assert parse_device("cuda") == "cuda"
    assert tried == ["cuda"]


@pytest.mark.usefixtures("two_devices")
def test_one_that_computes_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", lambda count, **_: torch.zeros(count))
    assert parse_device("auto") == "cuda"
