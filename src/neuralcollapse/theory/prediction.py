"""Prediction: the geometry that a training set-up leads to, and what was assumed."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.checks import check_matrix, check_vector
from neuralcollapse.geometry import Geometry
from neuralcollapse.scalars import check_boolean
from neuralcollapse.statistics import ClassStatistics
from neuralcollapse.theory.comparison import balance, compared, verdicts
from neuralcollapse.theory.matrices import FactoredMatrix, GroupedMatrix, log_partition

_ROWS_SHOWN = 40


@dataclass(frozen=True, eq=False)
class Prediction:
    """Features, classifier and logits at the optimum, and everything that was assumed.

    For several linear layers `classifier` is their product. Features of a class are all at its
    mean. Grams are at true scale and not centred; they are made when first asked for.

    Attributes:
        kind: "simplex ETF", "orthogonal frame", "general orthogonal frame", "SELI", "spectral"
            (from a singular value decomposition) or "numeric" (from an optimiser).
        regime: which case it is, in a sentence.
        objective: its value at the optimum.
        threshold: samples per class up to which a class or mode does not survive, or None where
            no such number is known.
        spinodal: samples per class up to which it has no local minimum either, or None; equal to
            the threshold at depth 1.
        rank: of the logits without the bias.
        status: (K,) "alive"; "metastable" (zero at the optimum, but with a local minimum that is
            not zero); "collapsed" (zero: nothing tells the class apart); "decided by bias" (its
            features are zero, but the classifier decides for it at zero, by the largest bias); or
            "merged with 3, 4" (the same vectors as theirs).
        classifier_norm_squared: (C,), of each row of the classifier.
        feature_norm_squared: (K,), of the features of each class.
        logit: (K,), of the true class on training samples, bias included; nan where outputs are
            not classes.
        bias: (C,), zero where there is none.
        layers: singular values of each linear layer that are not zero, largest first; the layer
            next to the features comes first.
        counts: (K,) int64, samples per class.
        loss: which loss.
        weight_decay: of each layer.
        feature_decay: of the features; None where it is not decay that bounds them.
        certificate: a proven bound on (objective - minimum) / objective, or None where the
            optimality is proved otherwise or not at all: see `regime` and `warnings`.
        reference: the work that treats this case.
        warnings: what is not unique, not global or not covered.
        branches: the critical points that were compared, where there are several.
        temperature: what products of classifier and features are divided by to give logits.
        classifier_matrix: `gram_classifier` by groups of alike classes (or factored): few numbers
            for any K.
        feature_matrix: `gram_features` likewise.
        logit_matrix: the logits without bias likewise, row = output, column = class.

    Example:
        >>> from neuralcollapse.theory import predict
        >>> prediction = predict([30, 12, 5, 4, 2], weight_decay=0.02, feature_decay=0.08)
        >>> prediction.status
        ('alive', 'alive', 'alive', 'collapsed', 'collapsed')
        >>> prediction.logit
        tensor([0.6129, 0.3880, 0.0519, 0.0000, 0.0000], dtype=torch.float64)
    """

    kind: str
    regime: str
    objective: float
    threshold: float | None
    spinodal: float | None
    rank: int
    status: tuple[str, ...]
    classifier_norm_squared: Tensor
    feature_norm_squared: Tensor
    logit: Tensor
    bias: Tensor
    layers: tuple[Tensor, ...]
    counts: Tensor
    loss: str
    weight_decay: tuple[float, ...] | None
    feature_decay: float | None
    certificate: float | None = None
    reference: str = ""
    warnings: tuple[str, ...] = ()
    branches: tuple["Prediction", ...] = field(default=(), repr=False)
    temperature: float = 1.0
    classifier_matrix: GroupedMatrix | FactoredMatrix = field(kw_only=True, repr=False)
    feature_matrix: GroupedMatrix | FactoredMatrix = field(kw_only=True, repr=False)
    logit_matrix: GroupedMatrix | FactoredMatrix = field(kw_only=True, repr=False)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def depth(self) -> int:
        """M, the number of linear layers."""
        return len(self.layers)

    @cached_property
    def gram_classifier(self) -> Tensor:
        """(C, C), inner products of the rows of the classifier."""
        return self.classifier_matrix.dense()

    @cached_property
    def gram_features(self) -> Tensor:
        """(K, K), inner products of the class means, not centred."""
        return self.feature_matrix.dense()

    @cached_property
    def confidence(self) -> Tensor:
        """(K,), softmax probability of the true class on training samples; nan like `logit`."""
        if isinstance(self.logit_matrix, FactoredMatrix):
            return torch.full_like(self.logit, torch.nan)
        groups = self.logit_matrix.groups
        bias = groups.each(self.bias.numpy())
        logs = self.logit_matrix.own + bias - log_partition(self.logit_matrix, bias)
        return torch.from_numpy(np.minimum(np.exp(logs), 1.0)[groups.index])

    @cached_property
    def products(self) -> Tensor:
        """(C, K), row of the classifier times class mean."""
        return self.temperature * self.logit_matrix.dense()

    @property
    def logits(self) -> Tensor:
        """(K, C), the logits of each class's training samples, bias included."""
        return self.logit_matrix.dense().T + self.bias

    @property
    def geometry(self) -> Geometry:
        """Gram blocks with class means centred on their mean, as a measurement has them."""
        means = self.gram_features
        means = means - means.mean(0)
        means = means - means.mean(1, keepdim=True)
        cross = self.products - self.products.mean(1, keepdim=True)
        square = len(self.gram_classifier) == len(means)
        return Geometry(means, self.gram_classifier, cross) if square else Geometry(means)

    def compare(
        self,
        features: ClassStatistics | Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
    ) -> dict[str, Any]:
        """A trained network beside this prediction.

        Args:
            features: statistics of the features of the training set, or their class means (K, d).
            weight: (C, d), the classifier; the product of the layers of a deep head.
            bias: (C,), its bias.

        Returns:
            Plain values; None where a number is not defined.

            - `classifier_norm_ratio`, `feature_norm_ratio`: (K,), measured over predicted norms.
            - `classifier_gram_distance`, `feature_gram_distance`: `gram_distance`, blind to scale.
            - `classifier_gram_error`, `feature_gram_error`, `product_error`: norm of the difference
                over the norm of the prediction, scale included.
            - `cosine`, `predicted_cosine`: (K,), between row of the classifier and class mean.
            - `bias_error`: the largest difference of an entry.
            - `verdict`: (K,), "alive", "dead by theory", "alive by theory, dead in training", ...
            - `balance_residual`: see `balance_residual`; None for several layers, without decays,
                and for statistics without scatter.

        Raises:
            ValueError: if shapes do not fit or a class has no samples.
        """
        classes = self.num_classes
        outputs = len(self.classifier_norm_squared)
        if outputs != classes:
            raise ValueError(
                f"a prediction to compare must have one output per class, got {outputs} outputs "
                f"for {classes} classes; compare the Gram matrices with gram_distance"
            )
        if isinstance(features, ClassStatistics):
            if features.num_classes != classes or not bool(features.seen.all()):
                raise ValueError(
                    f"features must have samples of all {classes} classes of the prediction, got "
                    f"{int(features.seen.sum())} of {features.num_classes}"
                )
            means = features.means
        else:
            means = check_matrix("features", features, rows=classes, why="class means")
        check_matrix(
            "weight", weight, rows=classes, columns=means.shape[1], why="the shape of the means"
        )
        result = compared(means, weight, self.gram_features, self.gram_classifier, self.products)
        shift = torch.zeros(classes, dtype=torch.float64)
        if bias is not None:
            shift = check_vector("bias", bias, classes).detach().double().cpu()
        result["bias_error"] = float((shift - self.bias).abs().max())
        result["verdict"] = verdicts(
            self.status, means, weight, self.gram_features, self.gram_classifier, self.depth > 1
        )
        result["balance_residual"] = None
        if self.depth == 1 and self.weight_decay is not None and self.feature_decay is not None:
            result["balance_residual"] = balance(
                features, weight, self.counts, self.weight_decay[0], self.feature_decay
            )
        return result

    def to_dict(self, *, grams: bool = True) -> dict[str, Any]:
        """Plain values for JSON; a number that is not defined is None.

        Args:
            grams: with the Gram matrices, which hold K^2 numbers; None in their place otherwise.
        """
        check_boolean("grams", grams)
        return {
            "kind": self.kind,
            "regime": self.regime,
            "loss": self.loss,
            "counts": self.counts.tolist(),
            "depth": self.depth,
            "weight_decay": None if self.weight_decay is None else list(self.weight_decay),
            "feature_decay": self.feature_decay,
            "objective": self.objective,
            "threshold": self.threshold,
            "spinodal": self.spinodal,
            "rank": self.rank,
            "status": list(self.status),
            "classifier_norm_squared": self.classifier_norm_squared.tolist(),
            "feature_norm_squared": self.feature_norm_squared.tolist(),
            "logit": _plain(self.logit),
            "confidence": _plain(self.confidence),
            "bias": self.bias.tolist(),
            "gram_classifier": self.gram_classifier.tolist() if grams else None,
            "gram_features": self.gram_features.tolist() if grams else None,
            "certificate": self.certificate,
            "reference": self.reference,
            "warnings": list(self.warnings),
            "layers": [values.tolist() for values in self.layers],
            "branches": [
                {"kind": b.kind, "regime": b.regime, "rank": b.rank, "objective": b.objective}
                for b in self.branches
            ],
        }

    def __str__(self) -> str:
        """A table of the classes under what holds for all of them."""
        lines = [f"{self.kind}: {self.regime}"]
        facts = {
            "objective": f"{self.objective:.6g}",
            "rank": str(self.rank),
            "threshold": None if self.threshold is None else f"{self.threshold:.6g} samples",
            "spinodal": None if self.spinodal is None else f"{self.spinodal:.6g} samples",
            "certificate": None if self.certificate is None else f"{self.certificate:.1e}",
        }
        lines.append(", ".join(f"{name} {text}" for name, text in facts.items() if text))
        square = len(self.classifier_norm_squared) == self.num_classes
        lines.append(
            f"{'class':>6} {'samples':>9} {'norm(w)^2':>11} {'norm(h)^2':>11} {'logit':>9} "
            f"{'confidence':>10}  status"
        )
        for k in range(min(self.num_classes, _ROWS_SHOWN)):
            weight = float(self.classifier_norm_squared[k]) if square else math.nan
            lines.append(
                f"{k:>6} {int(self.counts[k]):>9} {weight:>11.5g} "
                f"{float(self.feature_norm_squared[k]):>11.5g} {float(self.logit[k]):>9.5g} "
                f"{float(self.confidence[k]):>10.4f}  {self.status[k]}"
            )
        if self.num_classes > _ROWS_SHOWN:
            lines.append(f"   ... and {self.num_classes - _ROWS_SHOWN} classes more")
        if "collapsed" in self.status:
            lines.append("collapsed: the class lies at zero, where nothing tells it apart")
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)


def _plain(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
