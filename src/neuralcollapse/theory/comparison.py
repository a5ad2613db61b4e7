"""A trained network beside its prediction."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.geometry import gram_distance
from neuralcollapse.statistics import ClassStatistics
from neuralcollapse.theory.balance import balance_residual

# A vector or a distance below this share of what is predicted counts as gone.
_GONE = 0.1
# Vectors that are close and at least this parallel count as one: short ones alone do not.
_PARALLEL = 0.9


def compared(
    means: Tensor,
    weight: Tensor,
    predicted_features: Tensor,
    predicted_classifier: Tensor,
    predicted_products: Tensor,
) -> dict[str, Any]:
    """Norm ratios, distances and cosines of measured vectors against predicted Gram matrices.

    Args:
        means: (K, d), class means of the features, not centred.
        weight: (K, d), the classifier.
        predicted_features: (K, K), Gram matrix of the means.
        predicted_classifier: (K, K), Gram matrix of the classifier.
        predicted_products: (K, K), row of the classifier times mean.
    """
    means, weight = means.detach().double().cpu(), weight.detach().double().cpu()
    features, classifier, products = means @ means.T, weight @ weight.T, weight @ means.T
    result: dict[str, Any] = {}
    for name, measured, predicted in (
        ("classifier", classifier, predicted_classifier),
        ("feature", features, predicted_features),
    ):
        result[f"{name}_norm_ratio"] = _ratios(measured, predicted)
        result[f"{name}_gram_distance"] = _number(gram_distance(measured, predicted))
        result[f"{name}_gram_error"] = _error(measured, predicted)
    result["product_error"] = _error(products, predicted_products)
    result["cosine"] = _cosines(products, classifier, features)
    result["predicted_cosine"] = _cosines(
        predicted_products, predicted_classifier, predicted_features
    )
    return result


def verdicts(
    status: Sequence[str],
    means: Tensor,
    weight: Tensor,
    predicted_features: Tensor,
    predicted_classifier: Tensor,
    deep: bool,
) -> list[str]:
    """(K,), what became of each class, beside what was predicted.

    A class counts as dead in training where its mean and its row are both shorter than a tenth of
    what was predicted, or of the longest predicted where zero was; as merged where its mean is
    closer to another than a tenth of the predicted distance, or of the largest where the two are
    merged by theory, exactly or nearly (see `nearly_merged`).
    """
    means, weight = means.detach().double().cpu(), weight.detach().double().cpu()
    short = _short(means.norm(dim=1), predicted_features.diagonal().clamp(min=0).sqrt())
    short &= _short(weight.norm(dim=1), predicted_classifier.diagonal().clamp(min=0).sqrt())
    apart, near = _distances(predicted_features), nearly_merged(predicted_features)
    close = torch.cdist(means, means) < _GONE * torch.where(near, apart.max(), apart)
    close.fill_diagonal_(False)
    hint = ": initialisation too small" if deep else ""
    words: list[str] = []
    for k, said in enumerate(status):
        gone = bool(short[k])
        if said in ("collapsed", "metastable"):
            word = "dead by theory" if gone else "dead by theory, alive in training"
            word += " (metastable)" if said == "metastable" else ""
        elif bool(near[k].any()):
            same = near[k] & (apart[k] <= 1e-7 * apart.max()) if said != "alive" else near[k]
            word = "merged by theory"
            if not bool(close[k][same].all()):
                word = "merged by theory, apart in training"
        else:
            word = "alive by theory, merged in training" if bool(close[k].any()) else "alive"
            word = f"alive by theory, dead in training{hint}" if gone else word
        words.append(word)
    return words


def nearly_merged(gram: Tensor) -> Tensor:
    """(K, K), which pairs of vectors are as good as one, by their Gram matrix.

    Their distance is at most a tenth of the largest among all, and their cosine at least 0.9. Under
    cross entropy classes of different counts do not merge exactly, but so.
    """
    lengths = gram.diagonal().clamp(min=0).sqrt()
    apart = _distances(gram)
    near = apart <= _GONE * apart.max()
    near &= (gram >= _PARALLEL * lengths * lengths[:, None]) & (gram > 0)
    return near.fill_diagonal_(False)


def balance(
    features: ClassStatistics | Tensor,
    weight: Tensor,
    counts: Tensor,
    weight_decay: float,
    feature_decay: float,
) -> float | None:
    """The balance residual; of class means alone, as if every feature were at its mean."""
    if isinstance(features, Tensor):
        features = features * counts.to(features).sqrt()[:, None]
    elif features.scatter is None:
        return None
    weight = weight.to(features if isinstance(features, Tensor) else features.means)
    return _number(
        balance_residual(weight, features, weight_decay=weight_decay, feature_decay=feature_decay)
    )


def _short(lengths: Tensor, predicted: Tensor) -> Tensor:
    """Which lengths are gone: against what was predicted, or the longest where zero was."""
    longest = predicted.max()
    return lengths < _GONE * torch.where(predicted > 1e-6 * longest, predicted, longest)


def _distances(gram: Tensor) -> Tensor:
    squares = gram.diagonal()
    return (squares[:, None] + squares - 2 * gram).clamp(min=0).sqrt()


def _ratios(measured: Tensor, predicted: Tensor) -> list[float | None]:
    lengths = predicted.diagonal().clamp(min=0).sqrt()
    ratios = measured.diagonal().sqrt() / lengths
    return [_number(ratio) for ratio in ratios.where(lengths > 0, torch.nan)]


def _error(measured: Tensor, predicted: Tensor) -> float | None:
    return _number((measured - predicted).norm() / predicted.norm())


def _cosines(products: Tensor, classifier: Tensor, features: Tensor) -> list[float | None]:
    lengths = (classifier.diagonal() * features.diagonal()).clamp(min=0).sqrt()
    return [_number(cosine) for cosine in products.diagonal() / lengths]


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
