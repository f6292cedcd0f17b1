"""The training recipe, with what each default was measured to give.

Figures are top-1 on the 296 validation photos of 81 groceries, after training on 2,640
at 64 px for the same time unless said otherwise; see docs/training.md. Free of JAX, so
that settings can be listed without it.
"""

import dataclasses

from models.design import PLAIN, Design

# Passes over a large dataset are fewer: this many images seen, at least so many times.
VIEWS = 300_000
LEAST_EPOCHS, MOST_EPOCHS = 16, 110
# Steps matter as much as images: a small dataset gets small batches.
STEPS = 20
LEAST_BATCH, MOST_BATCH = 16, 128
# What may cover a part of an image; see `occlude`.
OCCLUDERS = ("rectangle", "bars", "grid", "object", "texture", "blur")
# Learning rate and weight decay of each optimiser, unless others are given.
RATES = {
    "muon": (2.8e-3, 0.1),
    "adamw": (4e-3, 0.1),
    "sgd": (0.1, 5e-4),
    "lion": (1e-3, 1.0),
}
SCHEDULE_FREE = "schedule_free"
# Logit of a cosine of 1 where the head sees angles only.
COSINE_SCALE = 30.0
# Hidden units of a boosted head: so many stages at most, each of so many.
STAGES, UNITS = 16, 16


@dataclasses.dataclass(frozen=True)
class Augment:
    """Settings for `augment` and `mix`.

    Attributes:
        flip: Chance of a left-right mirror.
        rotate: Largest turn, in degrees.
        zoom: Smallest and largest side of the view, as shares of the image's side.
        stretch: Largest log2 change of the view's aspect ratio.
        shift: Largest move of a view beyond the image's edge, as a share of its side.
        brightness: Largest change, as a share of the range.
        contrast: Largest log2 change.
        saturation: Largest log2 change.
        erase: Side of the largest hole, as a share of the view's side; 0 is off.
        occlude: Chance that a part of an image is covered.
        occlude_most: Largest covered share of an image.
        occluders: What covers it: any of `OCCLUDERS`.
        mixup: Chance that an image is blended with another of the batch.
        cutmix: Chance that an image gets a box of another of the batch.
        resolution: Side of the views, as a share of the image's side; None is three
            quarters, and no less than `WHOLE_VIEW` pixels, or the whole side.
        size: Side of the views in pixels; None goes by `resolution`.
        flip_up: Chance of an upside-down mirror.
        shear: Largest slant along either axis, in degrees.
        perspective: Largest change of scale from centre to corner, a share.
        hue: Largest turn of the colour circle, in degrees.
        grey: Chance that an image loses its colour.
        blur: Chance that an image is blurred.
        blur_size: Least and largest standard deviation of a blur, shares of the side.
        noise_gaussian: Chance of Gaussian noise; an image gets one kind at most.
        noise_shot: Chance of shot noise.
        noise_speckle: Chance of speckle.
        noise_impulse: Chance of salt and pepper.
        noise_severity: Largest severity of noise, 0 to 5.
        jpeg: Chance of the blocks of JPEG compression.
        jpeg_quality: Lowest quality, 1 to 100.
        erase_chance: Chance that an image gets holes, where `erase` is on.
        erase_holes: Holes in an image.
        erase_stretch: Largest log2 change of a hole's aspect ratio.
        erase_fill: "grey", "mean" or "noise".
        policy: "none", "rand" (RandAugment) or "trivial" (TrivialAugment).
        policy_ops: Ops that RandAugment draws for an image.
        policy_magnitude: Strength of RandAugment's ops, a share of the strongest.
    """

    flip: float = 0.5
    rotate: float = 15.0
    zoom: tuple[float, float] = (0.4, 1.0)
    stretch: float = 0.3
    shift: float = 0.05
    brightness: float = 0.2
    contrast: float = 0.5
    saturation: float = 0.5
    erase: float = 0.0
    occlude: float = 0.0
    occlude_most: float = 0.5
    occluders: tuple[str, ...] = OCCLUDERS
    mixup: float = 0.2
    cutmix: float = 0.3
    # Views are zoomed in, so a smaller side shows things at the size that they have in
    # the whole image at evaluation (arXiv 1906.06423), at 1.5 times the speed.
    resolution: float | None = None
    size: int | None = None
    # Off, and free of cost while off: what they bring is not measured yet.
    flip_up: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_size: tuple[float, float] = (0.003, 0.02)
    noise_gaussian: float = 0.0
    noise_shot: float = 0.0
    noise_speckle: float = 0.0
    noise_impulse: float = 0.0
    noise_severity: float = 5.0
    jpeg: float = 0.0
    jpeg_quality: int = 40
    erase_chance: float = 1.0
    erase_holes: int = 1
    erase_stretch: float = 0.0
    erase_fill: str = "grey"
    policy: str = "none"
    policy_ops: int = 2
    policy_magnitude: float = 0.3


NONE = Augment(
    flip=0.0,
    rotate=0.0,
    zoom=(1.0, 1.0),
    stretch=0.0,
    shift=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    erase=0.0,
    occlude=0.0,
    mixup=0.0,
    cutmix=0.0,
    resolution=1.0,
)

# In few epochs, strong and mixed views cost more than they bring: .09 in 20 epochs.
GENTLE = Augment(zoom=(0.6, 1.0), contrast=0.3, mixup=0.0, cutmix=0.0)
SHORT_RUN = 30
# Of 32 px, views of 32 gave .657 and of 24 .566 after 10 epochs of 10,000 CIFAR-10
# images, at 1.4 times the time (validation).
WHOLE_VIEW = 32


def side_of(settings: Augment, side: int) -> int:
    """Return the side of the views of images of side `side`, in pixels."""
    if settings.size or settings.resolution:
        return settings.size or round(side * (settings.resolution or 1))
    return max(round(0.75 * side), min(side, WHOLE_VIEW))


@dataclasses.dataclass(frozen=True)
class Loss:
    """What it costs to be wrong, see `losses`.

    Attributes:
        kind: cross_entropy, generalised, symmetric, bootstrap, focal, early_learning.
        q: Of generalised cross-entropy: 0 is cross-entropy, 1 the absolute error.
        alpha: Of symmetric cross-entropy: weight of cross-entropy.
        beta: Of symmetric cross-entropy: weight of the reverse.
        floor: Of symmetric cross-entropy: what stands for log 0.
        trust: Of bootstrapping: share of the label in the target.
        gamma: Of the focal loss: how much less what is right already counts.
        strength: Of early learning: the pull towards earlier answers.
        memory: Of early learning: decay of the average of earlier answers.
    """

    kind: str = "cross_entropy"
    q: float = 0.7
    alpha: float = 0.1
    beta: float = 1.0
    floor: float = -4.0
    trust: float = 0.95
    gamma: float = 2.0
    strength: float = 3.0
    memory: float = 0.7


@dataclasses.dataclass(frozen=True)
class Balance:
    """Correction for classes of unequal size while training, see `imbalance`.

    Attributes:
        kind: none, class_sampling, root_sampling, oversampling, undersampling,
            effective, logit_adjusted, ldam, ldam_deferred.
        tau: Of logit adjustment: share of the log prior.
        beta: Of effective numbers: nearer to 1 is nearer to inverse frequency.
        margin: Of LDAM: margin of the rarest class, as a cosine.
        deferred: Of ldam_deferred: share of the steps before weights set in.
    """

    kind: str = "none"
    tau: float = 1.0
    beta: float = 0.9999
    margin: float = 0.5
    deferred: float = 0.8

    @property
    def sampling(self) -> str | None:
        """How an epoch is sampled, None for every image once."""
        return SAMPLINGS.get(self.kind)

    @property
    def head(self) -> str:
        """Which head the network has: margins are meant on cosines."""
        return "cosine" if self.kind.startswith("ldam") else "linear"


SAMPLINGS = {
    "class_sampling": "class",
    "root_sampling": "root",
    "oversampling": "over",
    "undersampling": "under",
}


@dataclasses.dataclass(frozen=True)
class Distil:
    """What a teacher's answers count, see `distil`.

    Attributes:
        weight: Share of the loss; the label has the rest.
        temperature: That softens the answers of both.
    """

    weight: float = 0.0
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """Training on views that are attacked while it goes on, see `adversarial`.

    Attributes:
        method: none, fgsm, pgd, trades or free.
        norm: linf or l2.
        eps: Largest change of a view, of pixels in 0..1.
        steps: Gradients of PGD and TRADES for a view.
        beta: Of TRADES: what a changed answer counts beside a wrong one.
        replays: Updates of free training on the same views.
        watch: Validation images that PGD attacks after each epoch.
        watch_steps: Its steps.
    """

    method: str = "none"
    norm: str = "linf"
    eps: float = 4 / 255
    steps: int = 7
    beta: float = 6.0
    replays: int = 4
    watch: int = 512
    watch_steps: int = 10

    @property
    def updates(self) -> int:
        """Updates of the weights for each batch."""
        return self.replays if self.method == "free" else 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of the optimiser, its schedule and the views.

    Attributes:
        preset: Network of `backbones`.
        optimizer: muon, adamw, sgd or lion, see `optim`.
        epochs: Passes over the training images.
        batch_size: Images in a step.
        learning_rate: Peak for weights under Adam's steps; see `optim.muon`.
        weight_decay: Of kernels; norms and biases do not decay.
        warmup: Share of the steps spent rising to the peak.
        clip: Largest global norm of a gradient.
        ema: Decay of the average of weights that is kept.
        label_smoothing: Share of the target spread over all classes.
        augment: Random views.
        loss: What it costs to be wrong.
        balance: Correction for classes of unequal size.
        schedule: cosine, one_cycle, constant or schedule_free, see `optim`.
        sam_radius: Of sharpness-aware minimisation, see `steps`; 0 is off.
        accumulate: Parts that a device takes a batch in, see `steps`.
        precision: What a network computes in: float32 or bfloat16, see `forward`.
        remat: Recompute blocks for the gradient rather than remember them.
        freeze: What is not trained: "backbone", or how many stages after the stem.
        layer_decay: Learning rate of a stage, as a share of the next one's.
        unfreeze: Share of the steps until the last part learns too, see `optim`.
        network: Choices beside the preset, less views at test time.
        cycles: How often the schedule runs from its start, see `optim`.
        distil: What the answers of a teacher count.
        progressive: Side of the first views, as a share of the last; 1 is off. See
            `resizing`.
        progressive_stages: Sides that it takes, the last one included.
        adversarial: Whether views are attacked, and how.
    """

    preset: str = "small"
    # Muon .520 (26 epochs), AdamW at its best rate of 4e-3 .487 (34 epochs).
    optimizer: str = "muon"
    # 60 epochs gave .574, 110 gave .622.
    epochs: int = MOST_EPOCHS
    # Muon costs the same for every batch: at 64 images, a third of the step.
    batch_size: int = MOST_BATCH
    learning_rate: float = 2.8e-3
    weight_decay: float = 0.1
    warmup: float = 0.15
    clip: float = 1.0
    # About 200 steps, within the last tenth of the schedule.
    ema: float = 0.995
    label_smoothing: float = 0.1
    augment: Augment = dataclasses.field(default_factory=Augment)
    loss: Loss = Loss()
    balance: Balance = Balance()
    schedule: str = "cosine"
    sam_radius: float = 0.0
    accumulate: int = 1
    precision: str = "float32"
    remat: bool = False
    freeze: str | None = None
    layer_decay: float = 1.0
    unfreeze: float = 0.0
    network: Design = PLAIN
    cycles: int = 1
    distil: Distil = Distil()
    progressive: float = 1.0
    progressive_stages: int = 4
    adversarial: Adversarial = Adversarial()

    def __repr__(self) -> str:
        """Name every field but later ones at their defaults.

        The identity of a run hangs on this text; a field that came later and is not
        used must not part a run from its checkpoints.
        """
        shown = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name not in LATER or getattr(self, field.name) != field.default
        )
        return f"Recipe({', '.join(shown)})"


# Share of a learning rate where a champion learns on: 6e-4 of Muon's 2.8e-3.
TUNING = 3 / 14
# Fields of `Recipe` that came after runs were made without them.
LATER = (
    "schedule sam_radius accumulate precision remat freeze layer_decay unfreeze network"
    " cycles distil progressive progressive_stages adversarial"
).split()


def epochs_for(n: int) -> int:
    """Return the default number of epochs for `n` training images."""
    return min(max(VIEWS // max(n, 1), LEAST_EPOCHS), MOST_EPOCHS)


def views_for(epochs: int) -> Augment:
    """Return the default views for so many epochs."""
    return GENTLE if epochs < SHORT_RUN else Augment()


def batch_for(n: int) -> int:
    """Return the default batch size: a power of two giving `STEPS` steps an epoch.

    On 1,001 catalogue images and 40 epochs, 32 gave .868 and 64 .819 (validation).
    """
    largest = 1 << max(n // STEPS, 1).bit_length() - 1
    return min(max(largest, LEAST_BATCH), MOST_BATCH)


def cycle_ends(epochs: int, cycles: int) -> list[int]:
    """Return the last epoch (from 1) of each cycle; lengths differ by one at most."""
    return [round((k + 1) * epochs / cycles) for k in range(cycles)]


def soup_epochs(epochs: int, count: int) -> list[int]:
    """Return `count` epochs (from 1), evenly over the last third, with the last."""
    first = epochs - epochs // 3
    span = max(count - 1, 1)
    found = {round(first + k * (epochs - first) / span) for k in range(count)}
    return sorted(found | {epochs})
