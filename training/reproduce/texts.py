"""What pages say beside figures: their titles, what the paper has, and what is subtracted from what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from training.reproduce.arms import AXIS_MODES, DEFAULT_ORDER, ORDERS, STAGE_SETS
from training.reproduce.stats import welch
from training.reproduce.view import SHORT, stages_in_words

PAIRS: tuple[tuple[str, str, str], ...] = (  # what is subtracted from what, and what it tells
    ("fip-all", "scratch", "FIP-ALL over scratch"),
    ("souped", "shaped", "the mean of three runs over one run"),
    ("shaped", "scratch", "generated shapes over scratch"),
    ("shaped", "imaged", "generated shapes over image weights alone"),
    ("imaged", "scratch", "image weights over scratch"),
    ("shaped", "shaped+mean", "the layout over the mean, after generated shapes"),
    ("scratch", "scratch+mean", "the layout over the mean, from scratch"),
    ("fip-iobn", "scratch", "FIP-IO+BN over scratch"),
    ("fip-iobn", "random-iobn", "IO+BN, image over random filters"),
    ("fip-ioms", "random-ioms", "IOms, image over random filters"),
    ("fip-io", "random-io", "IO, image over random filters"),
    ("fip-io-recalibrated", "random-io-recalibrated", "IO recalibrated, image over random filters"),
    ("fip-io-mean", "random-io", "IO, image filters scaled over random filters"),
    ("fip-io-mean", "random-io-recalibrated", "IO, image filters scaled over random filters recalibrated"),
    ("fip-iobn", "random2d-iobn", "IO+BN, image over random 2D filters"),
    ("random2d-iobn", "random-iobn", "IO+BN, random 2D over random 3D filters"),
    ("fip-io-recalibrated", "fip-io", "FIP-IO, recalibrated over image statistics"),
    ("fip-all-mean", "fip-all", "FIP-ALL, scaled over as they are"),
    ("fip-io-mean", "fip-io", "FIP-IO, scaled over as they are"),
    ("fip-all-tied", "fip-all", "FIP-ALL, tied over untied"),
    ("fip-all-tied", "scratch-tied", "tied filters, FIP-ALL over scratch"),
    *(
        (f"fip-{mode}-{order}", f"fip-{mode}", f"{SHORT[f'fip-{mode}']}, axes {order} over {DEFAULT_ORDER}")
        for mode in AXIS_MODES
        for order in ORDERS
        if order != DEFAULT_ORDER
    ),
    *((f"fip-all-stages{name}", "scratch", f"{stages_in_words(name)} over scratch") for name in STAGE_SETS),
    *((f"fip-all-stages{name}", "fip-all", f"{stages_in_words(name)} over all four") for name in STAGE_SETS),
)
FIRST_EPOCH = (  # the same after the first epoch
    ("fip-all", "scratch", "FIP-ALL over scratch, one fall"),
    ("fip-all-cyclic", "scratch-cyclic", "FIP-ALL over scratch, cyclic"),
    ("fip-all-cyclic", "fip-all", "cyclic over one fall, FIP-ALL"),
    ("scratch-cyclic", "scratch", "cyclic over one fall, scratch"),
)
UNTRAINED_2D = "random2d-iobn"
UNTRAINED = ("random-iobn", "random-ioms", "random-io", "random-io-recalibrated", UNTRAINED_2D)  # arms whose filters nobody trained


class Published(NamedTuple):
    """Mean and standard deviation of three runs of each arm, in %."""

    first: tuple[float, float]
    second: tuple[float, float]

    @property
    def interval(self) -> str:
        """Of the gap, as of runs that are no pairs."""
        return f"{self.first[0] - self.second[0]:+.1f} ± {welch((self.first[1], self.second[1]), 3):.1f}"

    @property
    def scores(self) -> str:
        return f"{self.second[0]} ± {self.second[1]} → {self.first[0]} ± {self.first[1]}"


PUBLISHED = {  # (network, shots, first, second), Table 4
    ("resnet18", 10, "fip-all", "scratch"): Published((73.2, 0.6), (72.2, 0.8)),
    ("resnet18", 5, "fip-all", "scratch"): Published((66.6, 0.8), (63.7, 1.6)),
    ("resnet18", 1, "fip-all", "scratch"): Published((36.8, 0.6), (26.8, 4.4)),
    ("resnet50", 10, "fip-all", "scratch"): Published((74.1, 0.8), (71.7, 0.7)),
}
NETWORKS = {"resnet18": "ResNet18", "resnet50": "ResNet50"} | {f"cifar_resnet{depth}": f"CIFAR ResNet{depth}" for depth in (20, 32, 44, 56)}


DATA = {"modelnet40": "MODELNET40_HDF5", "semantickitti": "SEMANTICKITTI"}  # by kind, what a command is given
QUANTISED = (
    "Those of ImageNet are product-quantised: 65.8 % (ResNet18) and 68.2 % (ResNet50) top-1, not 69.8 % and 76.1 %, and the running "
    "statistics of their norms were estimated anew from 159 photographs, which FIP-IO depends on."
)


@dataclass(frozen=True)
class Page:
    """title: a question; about: what was done, and what the paper says. paper: its scores by arm, beside ours; of: what they are of."""

    title: str
    about: str
    paper: Mapping[str, float] = field(default_factory=dict)
    of: str = ""


PAGES = {
    "fewshot": Page(
        "does image pretraining help with few labels?",
        "Table 4 of Image2Point: 1, 5 and 10 labelled clouds a class of ModelNet40, everything trained from image weights (FIP-ALL) or "
        "random ones (scratch), and with the image filters frozen (FIP-IO+BN). The paper does not say how long it trained on few clouds, "
        "nor how it chose the learning rate; its public code takes the epoch that is best on the test clouds. Here the budget is 30, 40 "
        "and 100 epochs at 10, 5 and 1 clouds a class (390, 280 and 200 steps), the last epoch counts, and 985 other labelled clouds a "
        "draw choose the rate: more labels than anyone has who has one cloud a class. The paper's gaps are beside ours with intervals that "
        "follow from its means and deviations of three runs; it repeats filters along another axis (our zyx, ours is yzx). What a nearest "
        "neighbour reaches on the same draws, without any net: [neighbours](neighbours.md).",
    ),
    "modes": Page(
        "what may be frozen, and is it the pretraining?",
        "After Figure 2 and Table 7 of Image2Point: which parts are trained. The control that the paper lacks: the same modes with "
        "**random** filters, frozen: 3D ones, every tap drawn for itself, and random 2D ones that are inflated as image filters are, so "
        "that nothing but the training tells the two apart. (Where norms are frozen too, FIP-IO, scale and statistics differ as well.) "
        "Scaled filters, divided by the number of copies, are no arm of IOms and IO+BN: norms whose statistics follow divide a "
        "scale out again; with everything trained it only changes how far a step goes. With ResNet18 and ten clouds IO+BN has "
        "16 seeds and IOms 12 instead of 8, because their first gaps spread widest. With ten clouds some arms had every learning rate "
        "tried on both draws, by an earlier rule, the others the best two: the grids show it.",
        {"fip-io": 71.0, "fip-ioms": 81.9, "fip-iobn": 88.6, "scratch": 90.4},
        "ResNet18, all clouds, 100 to 300 epochs, best on test",
    ),
    "speed": Page(
        "does image pretraining train faster?",
        "Figure 3 of Image2Point: accuracy by epoch on all clouds (ResNet50 after the first epoch: scratch 28.5, FIP-ALL 80.1). The "
        "public code steps its cosine once an *iteration*, with the number of epochs as half its period: with the paper's 300 epochs the "
        "learning rate has fallen to almost nothing at the end of the first epoch (308 steps), and rises again. The cyclic arms do the "
        "same (half a period is 270 steps, an epoch 277), the others fall once over the whole run. A cyclic rate ends "
        "wherever it is when the epochs are over, so last epochs are not compared here. Accuracy by epoch is of the held-out train clouds. "
        "Rates were searched over one epoch. Seconds are of "
        "training steps; those of different engines are not to be compared.",
    ),
    "axes": Page(
        "along which axis should filters be repeated?",
        "Table 8 of Image2Point: a filter of an image is repeated along one axis, and its height and width take the other two: six "
        "orders, written here as repeat, height, width, with z up. The paper's clouds have y up, so its X, Y and Z (its default) are our "
        "xzy, yzx (ours, which leaves images upright) and zyx. Rows that name no axes are yzx. Four seeds can tell large gaps alone.",
        {"fip-io-xzy": 82.2, "fip-io": 81.7, "fip-io-zyx": 81.2, "fip-iobn-xzy": 90.4, "fip-iobn": 90.8, "fip-iobn-zyx": 89.9},
        "ResNet50, all clouds, one run",
    ),
    "stages": Page(
        "which stages are worth loading?",
        "Table 9 of Image2Point: only some of the four residual stages start from image weights, the others from random ones; everything "
        "is trained. Three seeds can tell large gaps alone.",
        {
            "scratch": 90.3,
            "fip-all": 90.9,
            "fip-all-stages1": 89.9,
            "fip-all-stages12": 90.4,
            "fip-all-stages123": 90.6,
            "fip-all-stages234": 91.1,
            "fip-all-stages34": 90.2,
            "fip-all-stages4": 90.0,
        },
        "ResNet50, all clouds, one run",
    ),
    "backbones": Page(
        "does it depend on the network?",
        "Ten clouds a class with networks pretrained on ImageNet (ResNet18, ResNet50) and on CIFAR-10 (the others). Networks of the two "
        "kinds differ in width and in the size of their images, too: what pretraining is worth is told by the gaps of each, not by one "
        "against another.",
    ),
    "recipe": Page(
        "how good can few clouds be?",
        "A recipe of our own for few labelled clouds, as it is served: an inflated CIFAR ResNet20 whose head keeps the layout, and that "
        "told generated shapes apart before it saw a labelled cloud (recipe shapes-cifar20: no scan, no model of a thing, no label but "
        "the number of a random program), and that is trained three times, its weights averaged (first looks on held-out clouds, without a "
        "record, chose that: 48.4 with one run, 50.7 with the mean of three, over three draws; of runs from random weights 41.8 and 19.8, "
        "on one). What its parts bring, and what was tried on the way to it. The paper's ResNet18 has, with 2,048 points a cloud, 36.8 "
        "from one cloud a class and 73.2 from ten.",
    ),
    "full": Page(
        "what is image pretraining worth with all labels?",
        "Tables 1 and 3 of Image2Point, with a recipe of our own instead of the public code's, the same for both arms, and the last epoch "
        "instead of the one that is best on the test clouds. The paper's ResNet18 has 90.39 from scratch and 90.52 with FIP-ALL, "
        "with 2,048 points a cloud.",
    ),
    "distill": Page(
        "what are clouds without labels worth?",
        "The semi-supervised learner that Image2Point's public code sets out to build: a teacher of ten labelled clouds a class says what "
        "it sees in all others, its scores are sharpened, and a student learns from them beside the labelled ones. Both are the net "
        "of our own recipe for few clouds, with the same draw and seed; the teacher is trained for 150 epochs. Rate, temperature and "
        "epochs were not searched, and there is no control of as many steps on the labelled clouds alone: what is told is the gain of "
        "the whole over its teacher.",
    ),
    "segmentation": Page(
        "does image pretraining help to label LiDAR scans?",
        "Table 2 of Image2Point in small: SemanticKITTI's 19 classes, from 1, 5 and all 21 scans at hand, a ResNet20 from CIFAR-10 as the "
        "encoder of a U-Net. With the image filters frozen (FIP-IO+BN) the decoder and all batch norms are trained. The paper has, on all "
        "of SemanticKITTI, ResNet18, +0.82 points of mIoU (64.75 → 65.57, one run each).",
    ),
}
