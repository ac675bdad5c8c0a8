"""The model card: what a model is for, how good it is, how it was made and where its limits are, from the facts of its run.

`models.registry.verify` checks that a card carries the facts of its manifest; the wording is decided here, and in
`card_clouds` and `card_scenes` where it depends on what the model was made to do.
"""

from string import Template

from models.manifest import Manifest, Provenance
from training import card_clouds, card_scenes
from training.card_parts import CLASSES_SHOWN, Scores, Story, cell
from training.datasets.kinds import GENERATED
from training.evaluate import counted

CARD = Template("""---
license: other
tags: [$tag, sparse-convolution, image2point]
---
# $name

$origin

## Intended use
$intended

## Scores
$scores

$choices $intervals This is one training with one seed: the spread over seeds is not known.
$weakest

![loss and validation score over the epochs](curve.png)

## Data
$data

## Limits
$limits

## Provenance
| | |
|---|---|
| network | $network, $parameters parameters |
| weights it began with | $weights |
| training data | $dataset (sha256 `$dataset_sha256`) |
| recipe | `recipe.yaml`, made from $recipe (sha256 `$recipe_sha256`), mode $mode, seed $seed |
| code | $code_version, $created |
| engine | $engine |

## Licences
$licences
""")

ORIGINS = {
    "image": "A 2D ResNet trained on images, inflated into a 3D sparse ConvNet and $taught (Image2Point, ECCV 2022), mode `$mode`.",
    "scratch": "A 3D sparse ResNet $taught from random weights: no image pretraining.",
    "random-frozen": "A control, not for use: a 3D sparse ResNet whose random stages stayed as they were, mode `$mode`.",
    "random-inflated": "A control, not for use: a 3D sparse ResNet whose stages are random 2D filters, inflated, that stayed as they were, "
    "mode `$mode`.",
}
BODY = "A 3D sparse ResNet that began with what `$model` (sha256 of its manifest `$digest`) had learnt$without, $taught, mode `$mode`."
SHAPES = "taught to tell generated shapes apart"
CLOUDS = "trained on point clouds"


def write_card(manifest: Manifest, story: Story) -> str:
    """The card as Markdown."""
    made, scores = manifest.provenance, story.scores
    words = card_clouds if manifest.task == "classify" else card_scenes
    weights = f"{made.weights_2d} (sha256 `{made.weights_2d_sha256}`)" if made.weights_2d else "none"
    limits = words.limits(manifest, story)
    if made.init.startswith("random"):
        limits.append("Its stages are random numbers: it exists to be compared with.")
    return CARD.substitute(
        tag=words.TAG,
        name=manifest.name,
        origin=_origin(made, story),
        intended=words.intended(manifest, _listed(manifest.labels)),
        scores=words.score_table(scores),
        choices=_choices(scores, words.UNITS, 0 if story.validation is None else len(story.validation)),
        intervals=words.INTERVALS,
        weakest=words.weakest(scores.test or scores.validation),
        data=words.data(manifest, story),
        limits="\n".join(f"- {limit}" for limit in limits),
        network=_network(manifest),
        parameters=f"{story.num_parameters:,}",
        weights=weights,
        dataset=cell(made.dataset),
        dataset_sha256=made.dataset_sha256,
        recipe=made.recipe,
        recipe_sha256=made.recipe_sha256,
        mode=made.mode,
        seed=made.seed,
        code_version=made.code_version,
        created=made.created,
        engine=made.engine or "not recorded",
        licences="\n".join(f"- {licence}" for licence in made.licences),
    )


def _origin(made: Provenance, story: Story) -> str:
    recipe, body = story.recipe, story.body
    facts = {"mode": made.mode, "taught": SHAPES if made.dataset == GENERATED else CLOUDS}
    if body:
        facts |= {"model": cell(body.model), "digest": body.manifest_sha256[:12]}
        facts["without"] = "" if recipe.inflate.stem == "copy" else ", without its stem"
    text = Template(BODY if body else ORIGINS[made.init]).substitute(facts)
    if recipe.soup > 1:
        text += f" Its weights are the mean of those of {recipe.soup} runs of {counted(recipe.epochs, 'epoch')} from there (a soup)."
    if body:
        before = body.provenance
        weights = f"{before.weights_2d} (sha256 `{before.weights_2d_sha256}`)" if before.weights_2d else "random weights"
        text += f" `{facts['model']}` itself was {SHAPES if before.dataset == GENERATED else CLOUDS} from {weights}."
    return text


def _network(manifest: Manifest) -> str:
    spec = manifest.network
    parts = [spec.name]
    if spec.decoder:
        parts.append(f"as a U-Net, decoder of the {spec.decoder}{', with its blur' if spec.blur else ''}")
    if spec.layout:
        parts.append(f"whose head tells {spec.layout}×{spec.layout}×{spec.layout} parts of a cloud apart")
    if spec.tied:
        parts.append(f"filters of the stages tied along {spec.tied}")
    return ", ".join(parts)


def _choices(scores: Scores, units: str, num_validation: int) -> str:
    if scores.chosen_on_test:
        return f"**The published epoch was chosen on the test {units}, as the reference code does: its test score is flattered.**"
    tested = (
        f"The test {units} were scored after training alone; before, it at most looked through them for damage and copies."
        if scores.test
        else f"There were no test {units}."
    )
    if not num_validation:
        return f"{tested} Nothing was held out for validation."
    held = f"The validation {units} were not trained on;"
    if scores.runs > 1:
        return f"{tested} {held} nothing was chosen on them. In the curve the last epoch of a run is that of the mean so far."
    if scores.best_published:
        return f"{tested} {held} the published epoch was chosen on them, which flatters its score there."
    return f"{tested} {held} the published epoch was not chosen on them."


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(cell(name) for name in names[:CLASSES_SHOWN])
    return shown + (f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else "")
