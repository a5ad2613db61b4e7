"""The network that is trained: standardised inputs, backbone, head; and its loss."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralcollapse.frames import Frame, hierarchy_frame, make_frame
from neuralcollapse.heads import (
    AbstractHead,
    ClassMeanHead,
    CosineHead,
    DeepLinearHead,
    FixedHead,
    LinearHead,
    NearestFrameHead,
    RotatedHead,
)
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.losses import (
    HUG,
    AbstractLoss,
    BarzDenzler,
    CrossEntropy,
    DotRegression,
    FrameCosine,
    HierarchicalCrossEntropy,
    NormalizedCrossEntropy,
    SoftLabels,
    SquaredError,
)
from neuralcollapse.losses.loss import total
from neuralcollapse.record import Run
from neuralcollapse.scalars import check_choice, check_number
from neuralcollapse.specs import parse_spec
from neuralcollapse.train.backbones import Standardize, make_backbone
from neuralcollapse.train.choices import head_choice, loss_choice
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data, data_roots
from neuralcollapse.train.glyph_sets import glyph_hierarchy
from neuralcollapse.train.picture_sets import aircraft_hierarchy
from neuralcollapse.train.samples import seeded
from neuralcollapse.train.synthetic_tree import synthetic_hierarchy

_SAMPLES_FOR_SCALE = 10_000
_SPARSE_FOR_SCALE = 1_000
_OF_A_HIERARCHY: dict[str, Callable[..., AbstractLoss]] = {
    "hierarchical-cross-entropy": HierarchicalCrossEntropy,
    "soft-labels": SoftLabels,
}
# What becomes of the mixing after a share of the training.
_SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda mixing, share: mixing,
    "linear-down": lambda mixing, share: mixing * (1 - share),
    "linear-up": lambda mixing, share: mixing * share,
}
_HIERARCHY_OPTIONS = {"decay_rate": float, "mapping": str, "floor": str, "distances": str}


class Network(nn.Module):
    """Standardised inputs, backbone, head.

    Args:
        scale: of the inputs.
        backbone: from inputs to features.
        head: from features to logits.
    """

    def __init__(self, scale: Standardize, backbone: nn.Module, head: AbstractHead):
        super().__init__()
        self.scale = scale
        self.backbone = backbone
        self.head = head
        self._layout = torch.contiguous_format

    def lay_channels_last(self) -> None:
        """Keep images and filters channels-last: the same numbers, faster on many machines."""
        self._layout = torch.channels_last
        for parameter in self.backbone.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def features(self, inputs: Tensor) -> Tensor:
        """(N, d), what enters the head."""
        inputs = self.scale(inputs)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=self._layout)
        return self.backbone(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, K), the logits."""
        return self.head(self.features(inputs))


class Objective(nn.Module):
    """What is minimised: loss of a network on a batch, plus decay of its features.

    Args:
        network: the network.
        loss: the loss.
        feature_decay: lam in (lam / 2) * sum of |h|^2 over the training set, estimated from the
            batch.
        num_samples: N, the size of the training set.
    """

    def __init__(
        self, network: Network, loss: AbstractLoss, feature_decay: float, num_samples: int
    ):
        super().__init__()
        self.network = network
        self.loss = loss
        self.feature_decay = feature_decay
        self.num_samples = num_samples

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """(objective, its terms without gradient, number of samples decided right)."""
        raw = self.network.features(inputs)
        features, weight, bias = self.network.head.operands(raw, labels if self.training else None)
        terms = self.loss.terms(features, labels, weight, bias)
        if self.feature_decay:
            # Of what the backbone gives: a cosine head scales it to a fixed length.
            wide = raw if raw.dtype == torch.float64 else raw.float()
            mean_square = wide.square().sum(1).mean()
            decay = self.feature_decay / 2 * self.num_samples * mean_square
            terms = {**terms, "feature_decay": decay}
        with torch.no_grad():
            logits = nn.functional.linear(features, weight.to(features.dtype), bias)
            correct = (logits.argmax(1) == labels).sum()
        shown = {name: term.detach() for name, term in terms.items()}
        return total(terms), shown, correct


def make_network(
    config: TrainConfig,
    num_classes: int,
    input_shape: tuple[int, ...],
    frame: Frame | None = None,
) -> Network:
    """The network of a configuration, initialised from torch's global generator.

    Its inputs are not yet standardised: see `fit_scale`. The frame of a head that holds one is by
    default made from the configuration alone, which cannot be done for one of a hierarchy.
    """
    dim = feature_width(config, num_classes)
    name = config.backbone
    if name == "auto":
        name = "cnn" if len(input_shape) == 3 and min(input_shape[1:]) > 16 else "mlp"
    head = _make_head(config, num_classes, dim, frame)
    backbone = make_backbone(name, input_shape, dim, config.width)
    per_channel = (input_shape[0], 1, 1) if len(input_shape) == 3 else input_shape
    scale = Standardize(torch.zeros(per_channel), torch.ones(per_channel))
    return Network(scale, backbone, head)


def feature_width(config: TrainConfig, num_classes: int) -> int:
    """d, the width of the features."""
    return config.dim or max(128, num_classes)


def class_hierarchy(config: TrainConfig, classes: Sequence[str]) -> Hierarchy | None:
    """The hierarchy of a configuration, its classes in the order of the labels; None without one.

    Raises:
        ValueError: if the file is unreadable or does not hold these classes.
    """
    if config.hierarchy is None:
        return None
    known: dict[str, Callable[[], Hierarchy]] = {
        "cifar100": Hierarchy.cifar100,
        "fashion-mnist": Hierarchy.fashion_mnist,
        "fgvc-aircraft": lambda: aircraft_hierarchy(data_roots(config)),
        "glyphs": glyph_hierarchy,
        "synthetic-tree": lambda: synthetic_hierarchy(classes),
        "wordnet": Hierarchy.wordnet,
    }
    found = known.get(config.hierarchy)
    hierarchy = Hierarchy.from_file(config.hierarchy) if found is None else found()
    lacking = [name for name in classes if name not in hierarchy.nodes]
    if lacking:
        raise ValueError(
            f"hierarchy must hold every class of the data, {config.hierarchy} lacks "
            f"{len(lacking)} of {len(classes)}, first {lacking[0]!r}; it holds "
            f"{', '.join(hierarchy.classes[:5])}, ..."
        )
    return hierarchy.subset(list(classes))


def made_frame(config: TrainConfig, classes: Sequence[str]) -> Frame | None:
    """The frame of a configuration whose head holds one, or None."""
    if config.frame is None:
        return None
    dim, generator = feature_width(config, len(classes)), seeded(config.seed, 1)
    spec = config.frame
    if spec.partition(":")[0] != "hierarchy":
        return _frame(spec, len(classes), dim, config.seed)
    hierarchy = class_hierarchy(config, classes)
    if hierarchy is None:
        raise ValueError(f"hierarchy must be given with frame={spec}, got None")
    options = parse_spec("frame", spec).arguments(_HIERARCHY_OPTIONS)
    floor = options.get("floor", "exact")
    if floor not in ("exact", "search"):
        options["floor"] = float(floor)
    return hierarchy_frame(hierarchy, dim=dim, generator=generator, **options)


def parameter_groups(objective: Objective, config: TrainConfig) -> list[dict[str, Any]]:
    """The parameters by their weight decay.

    Raises:
        ValueError: if `head_decay` does not fit the head.
    """
    head, decays = objective.network.head, config.head_decays()
    layers = list(head.layers) if isinstance(head, DeepLinearHead) else []
    if isinstance(head, LinearHead):
        layers = [head.weight]
    if decays is None:
        return [{"params": list(objective.parameters()), "weight_decay": config.weight_decay}]
    if len(decays) not in (1, len(layers)):
        raise ValueError(
            f"head_decay must be one number or one per learned layer of the head ({len(layers)} of "
            f"{config.head}), got {len(decays)}"
        )
    own = {id(layer) for layer in layers}
    others = [value for value in objective.parameters() if id(value) not in own]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": config.weight_decay}]
    each = decays * len(layers) if len(decays) == 1 else decays
    return groups + [
        {"params": [layer], "weight_decay": decay}
        for layer, decay in zip(layers, each, strict=True)
    ]


def fit_scale(scale: Standardize, data: Data) -> None:
    """Set mean and deviation to the training set's: per channel of images, or per feature.

    Sparse inputs stay zero where they are, and have one scale: a rare word is not blown up.
    """
    if data.train.sparse:
        inputs = data.train.inputs(torch.arange(min(len(data.train), _SPARSE_FOR_SCALE)))
        size = inputs.square().mean().sqrt()
        scale.deviation.fill_(size if size > 0 else 1.0)
        return
    number = min(len(data.train), _SAMPLES_FOR_SCALE)
    inputs = data.train.inputs(torch.linspace(0, len(data.train) - 1, number).long())
    over = [0, 2, 3] if inputs.dim() == 4 else [0]
    deviation = inputs.std(over, correction=0).view_as(scale.deviation)
    scale.mean.copy_(inputs.mean(over).view_as(scale.mean))
    # A constant input stays zero instead of being blown up.
    scale.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))


def load_network(run: Run, epoch: int | None = None) -> Network:
    """The trained network of a run at a checkpoint, by default its last; in evaluation mode.

    Raises:
        ValueError: if the run has no such checkpoint.
    """
    epochs = run.checkpoint_epochs()
    if not epochs or (epoch is not None and epoch not in epochs):
        raise ValueError(
            f"epoch must be one of the checkpoints {epochs} of {run.path}, got {epoch}"
        )
    config = TrainConfig.from_values(run.config)
    num_classes, shape = len(run.info["classes"]), tuple(run.info["input_shape"])
    held = None
    if config.frame is not None:
        # The checkpoint has it; the file that it came from may be gone.
        held = Frame("as saved", torch.zeros(num_classes, feature_width(config, num_classes)))
    with torch.random.fork_rng():
        network = make_network(config, num_classes, shape, held)
    if config.precision == "64":
        network = network.double()
    tensors = run.checkpoint(epochs[-1] if epoch is None else epoch).tensors
    prefix = "objective.network."
    network.load_state_dict(
        {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    )
    return network.eval()


def make_loss(config: TrainConfig, data: Data) -> AbstractLoss:
    """The loss of a configuration."""
    name, options = loss_choice(config.loss or "cross-entropy")
    if name == "squared-error":
        return SquaredError(config.true_weight, config.target)
    if name == "dot-regression":
        return DotRegression(**options)
    if name == "normalized-cross-entropy":
        return NormalizedCrossEntropy(**{"temperature": config.temperature, **options})
    if name == "hug":
        return HUG(**options, synchronise=config.devices > 1)
    if name == "frame-cosine":
        return _frame_cosine(**options)
    if name == "barz-denzler":
        return BarzDenzler()
    if name in _OF_A_HIERARCHY:
        hierarchy = class_hierarchy(config, data.classes)
        if hierarchy is None:
            raise ValueError(f"hierarchy must be given with loss={name}, got None")
        return _OF_A_HIERARCHY[name](hierarchy, **options)
    counts = data.counts()["train"] if config.logit_adjustment else None
    return CrossEntropy(config.label_smoothing, counts, config.logit_adjustment)


def _frame_cosine(mixing: float = 0.5, schedule: str = "constant") -> FrameCosine:
    """The loss with a mixing that stays, falls to zero or rises from it."""
    check_choice("loss option schedule", schedule, tuple(_SCHEDULES))
    check_number("mixing", mixing, minimum=0)
    return FrameCosine(functools.partial(_SCHEDULES[schedule], mixing))


def _make_head(
    config: TrainConfig, num_classes: int, dim: int, frame: Frame | None
) -> AbstractHead:
    name, options = head_choice(config.head or "linear")
    if name == "linear":
        return LinearHead(num_classes, dim, bias=config.bias)
    if name == "deep-linear":
        return DeepLinearHead(num_classes, dim, bias=config.bias, **{"depth": 2, **options})
    if name == "cosine":
        return CosineHead(num_classes, dim, temperature=config.temperature)
    if name == "class-mean":
        return ClassMeanHead(num_classes, dim, temperature=config.temperature, **options)
    frame = frame or _frame(config.frame or "simplex", num_classes, dim, config.seed)
    if name == "rotated":
        return RotatedHead(frame, temperature=config.temperature)
    if name == "nearest-frame":
        return NearestFrameHead(frame, temperature=config.temperature, **options)
    return FixedHead(frame, **options)


@functools.lru_cache(maxsize=4)
def _frame(spec: str, num_classes: int, dim: int, seed: int) -> Frame:
    """The frame of a run; kept, since the same one is made for the check and for the training."""
    return make_frame(spec, num_classes, dim, seeded(seed, 1))
