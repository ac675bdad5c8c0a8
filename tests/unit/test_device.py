"""Names of devices: what is there is taken, anything else is refused with what is there."""

import pytest
import torch

from models.device import available_devices, parse_device
from models.errors import BadOption


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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [parse_device(name) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda", "cuda:0", "cuda:1"]
    assert parse_device("auto") == "cuda"
    with pytest.raises(BadOption):
        parse_device("cuda:2")
