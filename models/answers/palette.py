"""What the numbers in an answer stand for: every class of a model, whether it occurs or not."""

from dataclasses import dataclass

from models.labels import LabelMap


@dataclass(frozen=True)
class PaletteEntry:
    """One class that the model knows. index: its place in the model; id: as label files call it; colour: RGB."""

    name: str
    index: int
    id: int
    colour: tuple[int, int, int]


def palette(label_map: LabelMap) -> tuple[PaletteEntry, ...]:
    """The classes of the map, by index."""
    return tuple(PaletteEntry(each.name, index, each.ids[0], each.colour) for index, each in enumerate(label_map.classes))
