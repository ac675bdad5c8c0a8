"""What a net is worth on data that it is not trained on."""

import numpy as np
import torch
from torch import nn

from models.sparse.backends.protocol import Engine
from training.batches import MicroBatch, train_batches
from training.distributed import ALONE, World
from training.metrics import Confusion
from training.samples import Samples


def validate(net: nn.Module, samples: Samples, world: World = ALONE, engine: Engine | None = None, batch_size: int = 32) -> Confusion:
    """What the net makes of clouds, or of all points of scenes, in evaluation mode, on the device it is on.

    The processes share the work.
    """
    net.eval()
    device = next(net.parameters()).device
    rows = np.arange(len(samples))[world.rank :: world.size]
    size = batch_size if samples.fewest > 1 else 1  # a scene fills a batch
    micros = [MicroBatch(rows[start : start + size], rows[start : start + size], 1.0) for start in range(0, len(rows), size)]
    total = Confusion.none(samples.num_classes)
    with torch.inference_mode():
        for batch in train_batches(samples, micros, seed=0, epoch=0, device=device, engine=engine):
            predicted = batch.wanted(net(batch.inputs).argmax(1)).cpu().numpy()
            total += Confusion.of(predicted, batch.targets.cpu().numpy(), samples.num_classes)
    counts = world.mean(total.counts.ravel().astype(float).tolist(), device)
    return Confusion(np.rint(np.array(counts) * world.size).astype(np.int64).reshape(total.counts.shape))
