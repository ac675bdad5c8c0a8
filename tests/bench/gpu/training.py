"""A whole training step on a device: forward, loss, backward, SGD; kernel maps included; every engine, in float32 and bfloat16."""

import copy
from collections.abc import Callable

import torch

from tests.bench.engine.evaluation import Subject
from tests.bench.engine.timing import row, say
from tests.bench.gpu.contenders import CUDA, engines, on_device
from tests.bench.gpu.timing import medians
from tests.bench.report import Row
from training.finetune import Mode, freeze_policy
from training.losses import batch_loss

MODES: tuple[Mode, ...] = ("all", "iobn")


def rows(subject: Subject, rounds: int) -> list[Row]:
    found = []
    for mode in MODES:
        for low in (False, True):
            say(f"training step, {mode}, {'bf16' if low else 'fp32'}")
            seconds = medians({name: _step(subject, name, mode, low) for name in engines()}, rounds)
            kind = f"{subject.name}_train_{mode}_{'bf16' if low else 'fp32'}"
            found += [row(f"{kind}_{name}_ms", 1e3 * each, "ms") for name, each in seconds.items()]
    return found


def _step(subject: Subject, name: str, mode: Mode, low: bool) -> Callable[[], object]:
    workload, engine = on_device(subject.workload), engines()[name]
    net = copy.deepcopy(subject.tied).to(CUDA)
    policy = freeze_policy(net, mode)
    policy.apply(net)
    policy.set_train(net)
    optimiser = torch.optim.SGD([each for each in net.parameters() if each.requires_grad], lr=1e-4, momentum=0.9)
    assert workload.targets is not None
    targets, occurring = workload.targets.to(CUDA), workload.targets.unique().tolist()

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=low):
            loss = batch_loss(net(workload.tensor(engine)), targets, len(targets), occurring=occurring)
        loss.backward()
        optimiser.step()

    return run
