"""Sentences of the summary: which network, which weights to start from, what freezing costs. They follow from the records alone."""

from training.evaluate import counted
from training.reproduce.gaps import Gap, few_or_all, gaps_of, setting
from training.reproduce.search import Group
from training.reproduce.stats import FEW_PAIRS, holm
from training.reproduce.tables import by_amount, has_usual_budget
from training.reproduce.texts import NETWORKS, UNTRAINED, UNTRAINED_2D
from training.reproduce.view import SHORT, Result, gap

FEWEST = 3  # trials of an arm, for a statement
ALIKE = 2.0  # points: a whole interval within them is called alike
SURE = 0.05
SURE_MARK = " \\*"  # an asterisk in Markdown
Found = list[tuple[Group, dict[str, Result]]]


def known_well(group: Group, of: dict[str, Result]) -> list[Result]:
    """What a user can choose and is known well enough, of all clouds by one run; the other arms are controls."""
    fewest = FEWEST if group.shots else 1
    return [of[arm] for arm in SHORT if arm in of and len(of[arm].tests) >= fewest]


def networks(found: Found) -> list[str]:
    """A line for every number of labels: what each network reaches in its best mode, the best first."""
    best: dict[int | None, list[tuple[float, str]]] = {}
    for group, of in found:
        if not has_usual_budget(group):
            continue
        reached = [(result.test.mean, result) for result in known_well(group, of) if result.test]
        if reached:
            mean, result = max(reached, key=lambda pair: pair[0])
            millions = next(iter(result.records.values())).parameters / 1e6
            runs = f"{counted(len(result.tests), 'run')}{f', {len(result.failed)} of which hardly learned' if result.failed else ''}"
            text = f"{NETWORKS[group.network]} ({millions:.1f} M parameters) {result.test} with {SHORT[result.arm]}, {runs}"
            best.setdefault(group.shots, []).append((-mean, text))
    return [f"- {few_or_all(shots)}: {'; '.join(text for _, text in sorted(best[shots]))}." for shots in sorted(best, key=by_amount)]


def advice(found: Found) -> list[str]:
    """A line a setting: what to start from, why, what the paper says, and what freezing costs and saves."""
    known = [(group, of, {result.arm: result for result in known_well(group, of)}) for group, of in found if group.shots]
    gains = [(group, of, arms, gain) for group, of, arms in known if (gain := _over_scratch(group, arms)) is not None]
    if not gains:
        return []
    chances = _corrected([gain for *_, gain in gains])
    lines = [
        f"- {setting(group)}: start from {_start(gain, chance)}; FIP-ALL over scratch {gain.told}{_frozen(arms)}.{_scaled(of)}"
        for (group, of, arms, gain), chance in zip(gains, chances, strict=True)
    ]
    told = sum(chance is not None for chance in chances)
    return [
        "Everything trained, image weights (FIP-ALL) or random ones (scratch)? One of the two is preferred where Holm's correction over "
        f"the {told} settings of {FEW_PAIRS} pairs or more leaves p below {SURE:g}; they are called alike where the whole interval lies "
        f"within {ALIKE:g} points. {_signs(gains)}",
        "",
        *lines,
        "",
    ]


def _over_scratch(group: Group, known: dict[str, Result]) -> Gap | None:
    return next((each for each in gaps_of(group, known) if (each.first, each.second) == ("fip-all", "scratch")), None)


def _corrected(gaps: list[Gap]) -> list[float | None]:
    """p of every gap by Holm's correction over all of them, but for those of too few pairs."""
    enough = [each.value.count >= FEW_PAIRS for each in gaps]
    found = iter(holm([each.value.p for each, has in zip(gaps, enough, strict=True) if has]))
    return [next(found) if has else None for has in enough]


def _start(gain: Gap, chance: float | None) -> str:
    value = gain.value
    if chance is None:
        return "either, it is not known which is better"
    if chance < SURE:
        return "image weights" if value.mean > 0 else "random weights"
    if abs(value.mean) + value.half <= ALIKE:
        return "either, alike"
    return "either, it is not known which is better"


def _signs(gains: list[tuple[Group, dict[str, Result], dict[str, Result], Gap]]) -> str:
    """How often the mean gap is above zero, by what the 2D weights were trained on; of every network and number of labels one gap."""
    gains = [each for each in gains if has_usual_budget(each[0]) and each[3].value.count >= FEW_PAIRS]
    told = []
    for of, small in (("ImageNet", False), ("CIFAR-10", True)):
        means = [gain.value.mean for group, _, _, gain in gains if group.network.startswith("cifar") == small]
        if means:
            told.append(f"in {sum(mean > 0 for mean in means)} of {len(means)} with weights of {of}")
    beside = "; networks of the two kinds differ in width and in the size of their images, too" if len(told) > 1 else ""
    return f"At the usual budgets the mean gap is above zero {', '.join(told)}{beside}." if told else ""


def _frozen(known: dict[str, Result]) -> str:
    """What FIP-IO+BN costs and saves."""
    loss = gap(known, "fip-iobn", "fip-all")
    if loss is None:
        return ""
    frozen, whole = known["fip-iobn"].timed, known["fip-all"].timed
    one = next(iter(known["fip-iobn"].records.values()))
    time = f"about {frozen[0] / whole[0]:.1f} of its time and " if frozen and whole and frozen[1] == whole[1] else ""
    return (
        f". FIP-IO+BN over FIP-ALL {loss.interval} ({loss.count} pairs), for {time}"
        f"{100 * one.trained / one.parameters:.1f} % of its trained parameters"
    )


def _scaled(of: dict[str, Result]) -> str:
    """What FIP-IO gains where filters are divided by the number of copies."""
    gain = gap(of, "fip-io-mean", "fip-io")
    if gain is None or not gain.decided:
        return ""
    return (
        f" Norms should be trained; where they have to stay frozen, filters should be scaled (`--set inflate.scale=mean`): FIP-IO "
        f"{of['fip-io-mean'].test} instead of {of['fip-io'].test}."
    )


def controls(found: Found) -> list[str]:
    """Random 3D filters differ from image ones in structure too, random 2D ones that are inflated in nothing but the training."""
    rows = [(group, each) for group, of in found for each in gaps_of(group, of) if each.second in UNTRAINED]
    if not rows:
        return ["Image filters against random ones, both frozen: not measured yet."]
    chances = _corrected([each for _, each in rows])
    compared = {NETWORKS[group.network] for group, each in rows if each.second == UNTRAINED_2D}
    alone = [name for name in dict.fromkeys(NETWORKS[group.network] for group, _ in rows) if name not in compared]
    lacking = f" With {', '.join(alone)} those were not tried." if alone else ""
    return [
        "Random filters are 3D, every tap drawn for itself, and so differ from image filters in structure, too; random 2D ones are "
        f"inflated as those are.{lacking} Bold: the interval excludes zero, uncorrected; with an asterisk also p by Holm's correction over "
        f"the {sum(chance is not None for chance in chances)} gaps of {FEW_PAIRS} pairs or more is below {SURE:g}.",
        "",
        *(
            f"- {setting(group)}: {each.what}: {each.told}{SURE_MARK * (chance is not None and chance < SURE)}."
            for (group, each), chance in zip(rows, chances, strict=True)
        ),
    ]
