"""Measure neural collapse: of a model on a loader."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuralcollapse.batches import check_loader, labelled_samples, run_model, split_batch
from neuralcollapse.checks import check_finite
from neuralcollapse.dealing import (
    MOST_PARTS,
    Dealer,
    PartsAccumulator,
    accumulator_of,
    first_part,
    merged,
    parts_of,
    sequence_numbers,
    wants_scatter,
)
from neuralcollapse.draws import Draws
from neuralcollapse.layers import LayerTap, check_layers
from neuralcollapse.measurement import Measurement, check_weighting, conclude, given_means
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.positions import Pooling, first_tensor
from neuralcollapse.processes import num_processes, own_rank
from neuralcollapse.scalars import check_booleans, check_choice, check_integer, counted
from neuralcollapse.second_look import Decided, second_look
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean
from neuralcollapse.tap import FeatureTap, evaluating

# Features, labels, and the number of each one's sequence where features are those of tokens.
Batch = tuple[Tensor, Tensor, Tensor | None]
Batches = Callable[[str], Iterable[Batch]]

# What the pass is called that sums up statistics.
_FIRST = "measuring"
# Features up to this many bytes are kept for a second look; beyond it the data is read again.
_KEPT_BYTES = 1 << 30


def measure(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layer: str | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    means: Measurement | ClassStatistics | None = None,
    outsiders: Iterable[Any] | None = None,
    layers: Sequence[str] | Literal["blocks", "all"] | None = None,
    pooling: Pooling = "mean",
    split: str | None = None,
    ignore_index: int | None = -100,
    scatter: bool | None = None,
    jackknife: bool = False,
    distributed: bool = False,
    progress: bool = True,
) -> Measurement:
    """Measure how collapsed a model is on the batches of a loader.

    One pass in evaluation mode without gradients. Features up to 1 GiB are kept for
    `nc4_disagreement` and `hug_intra`; more are computed a second time, from the same batches also
    where a loader shuffles. The model, its mode, its device and the generators of random numbers
    are afterwards as they were, those of the loader among them.

    Args:
        model: any module with a linear classifier.
        loader: batches (inputs, labels, ...), or dictionaries or dataclasses with the labels under
            one of labels, label, targets, target, y; the model is called with the rest, by name
            where `forward` has the names. Labels are integers (N,) or one-hot (N, K); where the
            classifier receives tokens (N, T, d), integers (N, T), and each token is a sample.
        layer: dotted name of the classifier; by default the last linear layer that is
            `num_classes` wide.
        num_classes: K; by default the width of the last linear layer.
        device: where to run; by default where the model is.
        normalize: scale every feature to unit length first. Only accuracy and the classifier's
            side of `nc4_disagreement` look at the raw features, as the network does.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances within and between classes: "balanced" counts every class
            alike, "samples" every sample, and None has the published mixture; see `nc1`.
        means: whose class means decide in `nc4_disagreement`: an earlier measurement of this model,
            or one of the training set. Decisions are then counted in the one pass, and features
            beyond 1 GiB are not computed again: what else looks at them is left out.
        outsiders: batches, as of the loader or of inputs alone, of samples that belong to none of
            the classes, for `nc5_orthogonality`; their labels are not looked at. Every process
            takes all of them.
        layers: also measure these layers, by dotted name, or the "blocks" of the network, or "all"
            layers, in the same pass; the result is in `depth`. Statistics are summed up by layer
            and features are not kept.
        pooling: how layers that give (N, C, H, W) or (N, T, d) become one row a sample: the "mean"
            over positions, or "flatten". Layers wider than 4096 have their `nc1` from a second
            pass over the loader, and no `vci`.
        split: what the data is, for the record, e.g. "train".
        ignore_index: samples with this label are left out, as torch's cross entropy does; None
            for none.
        scatter: accumulate the (d, d) scatter. Without it `nc1` takes a second look at the features
            in the K-1 directions of the class means, without any (d, d) array. By default up to
            a width of 5792.
        jackknife: also find 95 % intervals, from the same pass, by leaving out one at a time of 20
            parts of the data, to which the samples of each class are dealt in turns, or, where
            samples are tokens, the sequences. Samples must be independent: frames of one video
            make intervals too narrow. Classes of fewer than 20 samples are in as many parts as they
            have samples; see `jackknife_intervals` for what that does. Metrics that look at the
            features themselves follow the class means, which move without a part: decisions anew,
            of up to 1000 classes, the others to first order, for which a class should have ten
            samples. Takes memory for 20 times the sums, some 30 (K d + d^2) doubles (4.5 GB at
            d = 4096), or 30 K d with scatter=False.
        distributed: the loader holds one process's part of the data; the result is that of all
            parts together, the same in every process of torch.distributed.
        progress: show a progress bar on standard error where that is a terminal.

    Raises:
        TypeError: if the loader yields something else, or labels are not integers or one-hot.
        ValueError: if no classifier is found, the loader is empty, a label is out of range or a
            share of several classes, a feature is not finite, or the jackknife finds no class of
            two samples.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batches = [(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))]
        >>> measurement = measure(model, batches, num_classes=3)
        >>> measurement["nc1"] > 0
        True
    """
    check_loader("loader", loader)
    check_choice("global_mean", global_mean, ("class", "sample"))
    check_choice("pooling", pooling, ("mean", "flatten"))
    check_weighting(weighting)
    check_booleans(
        normalize=normalize, jackknife=jackknife, distributed=distributed, progress=progress
    )
    if outsiders is not None:
        check_loader("outsiders", outsiders)
    if ignore_index is not None:
        check_integer("ignore_index", ignore_index, -(1 << 63))
    if layers is not None:
        check_layers(layers)
    with (
        FeatureTap(model, layer, num_classes) as tap,
        evaluating(model, device) as device,
        Draws(loader) as draws,
    ):
        layer_tap = None
        if layers is not None:
            layer_tap = LayerTap(
                model, layers, tap.name, len(tap.weight), pooling=pooling, device=_home(tap)
            )

        doubts: list[str] = []

        def batches(task: str) -> Iterator[Batch]:
            draws.rewind()
            for batch in _with_progress(loader, task, progress):
                inputs, labels = split_batch(batch)
                output = run_model(model, inputs, device)
                if layer is None and not doubts:
                    doubts.extend(_doubts(output, tap))
                if layer_tap is not None and layer_tap.listening:
                    layer_tap.update(labels, ignore_index)
                features = tap.take(tokens=labels.dim() > 1)
                sequences = sequence_numbers(features, labels, ignore_index) if jackknife else None
                features, labels = labelled_samples(features, labels, len(tap.weight), ignore_index)
                yield features, labels.to(device), sequences

        decided = None
        if means is not None:
            rows, dim = tap.weight.shape
            given = given_means(means, rows, dim, normalize).to(_home(tap))
            decided = Decided(
                given,
                tap.weight,
                tap.bias,
                normalize=normalize,
                parts=MOST_PARTS if jackknife else 1,
            )
        first = None
        if jackknife:
            first = first_part(own_rank(), num_processes()) if distributed else 0
        with layer_tap or nullcontext():
            parts, kept, same_again, dtype = _accumulate(
                batches, tap, loader, normalize, scatter, decided, first
            )
        if distributed:
            parts = [part.merge_processes() for part in parts]
        statistics = merged(parts)
        # Only now: the part of one process may be empty, and the others wait for it.
        if statistics.num_samples == 0:
            raise ValueError("loader must yield at least one sample, got none")
        # Copies: the measurement must not follow the parameters when training goes on.
        weight, bias = tap.weight.clone(), None if tap.bias is None else tap.bias.clone()
        looks = kept or (same_again if decided is None else None)
        unseen = "the loader runs only once" if decided is None else "means were given for one pass"
        outside = None
        if outsiders is not None:
            outside = _mean_outside(model, outsiders, tap, device, normalize, progress)
        wide = layer_tap is not None and layer_tap.settle(distributed=distributed)
        # A second pass is for what did not fit: features, or the scatter of wide layers, or both.
        with layer_tap if layer_tap is not None and wide else nullcontext():
            if wide and looks is not same_again:
                for _ in same_again or ():
                    pass
            look = second_look(
                statistics,
                weight,
                bias,
                looks,
                normalize=normalize,
                global_mean=global_mean,
                weighting=weighting,
                outsiders=outside,
                distributed=distributed,
                decided=decided,
                unseen=f"features did not fit into memory and {unseen}",
                parts=parts if jackknife else (),
                first_part=first or 0,
            )
        measured = conclude(
            statistics,
            weight,
            bias,
            look,
            normalize=normalize,
            global_mean=global_mean,
            weighting=weighting,
            split=split,
            layer=tap.name,
            dtype=dtype,
            means_given=decided is not None,
            parts=parts if jackknife else (),
            outsiders=outside,
        )
        measured = replace(measured, notes=(*measured.notes, *doubts))
        if layer_tap is None:
            return measured
        return replace(measured, depth=layer_tap.profile(distributed=distributed))


def _doubts(output: Any, tap: FeatureTap) -> list[str]:
    """A note where the classifier that was found gives other outputs than the model."""
    logits, rows = first_tensor(getattr(output, "logits", output)), len(tap.weight)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] == rows:
        return []
    return [
        f"the model gives {counted(logits.shape[1], 'output')} and the layer {tap.name!r}, taken "
        f"for its classifier, {rows}: if that is another layer, name it with layer=; if none, "
        "measure_features takes features and the weight"
    ]


def _home(tap: FeatureTap) -> torch.device | str:
    """Where sums are kept: double precision is not to be had on every accelerator."""
    return "cpu" if tap.weight.device.type == "mps" else tap.weight.device


def _accumulate(
    batches: Batches,
    tap: FeatureTap,
    loader: Iterable[Any],
    normalize: bool,
    scatter: bool | None,
    decided: Decided | None,
    first: int | None,
) -> tuple[list[ClassStatistics], list[Batch], Iterable[Batch] | None, torch.dtype | None]:
    """(statistics by part, features if few enough to keep, else the batches again, their type)."""
    num_classes, dim = tap.weight.shape
    scatter = wants_scatter(scatter, dim)
    accumulator = accumulator_of(num_classes, dim, scatter, _home(tap), first)
    # What is decided needs the features as they are, and the statistics may not.
    dealer = None if first is None else Dealer(num_classes, first=first)
    kept: list[Batch] = []
    kept_bytes, dtype = 0, None
    for features, labels, sequences in batches(_FIRST):
        shown = directions(features) if normalize else features
        if isinstance(accumulator, PartsAccumulator):
            accumulator.update(shown, labels, sequences)
        else:
            accumulator.update(shown, labels)
        if decided is not None and dealer is not None:
            for part, own, their in dealer.deal(features, labels, sequences):
                decided.update(own, their, part)
        elif decided is not None:
            decided.update(features, labels)
        kept_bytes, dtype = kept_bytes + features.nbytes, features.dtype
        if kept_bytes <= _KEPT_BYTES:
            kept.append((features, labels, sequences))
        else:
            kept.clear()
    if decided is not None and dealer is not None:
        for part, own, their in dealer.rest():
            decided.update(own, their, part)
    again = None if isinstance(loader, Iterator) else batches("measuring decisions")
    return parts_of(accumulator), kept, again, dtype


def _mean_outside(
    model: nn.Module,
    outsiders: Iterable[Any],
    tap: FeatureTap,
    device: torch.device,
    normalize: bool,
    progress: bool,
) -> Tensor:
    """(1, d), the mean of the features of samples outside of the classes."""
    total, number = torch.zeros(1, tap.weight.shape[1], dtype=torch.float64), 0
    with Draws(outsiders):
        for batch in _with_progress(outsiders, "measuring outsiders", progress):
            # Inputs alone will do: their labels are not looked at.
            inputs, labels = (batch, None) if isinstance(batch, Tensor) else split_batch(batch)
            run_model(model, inputs, device)
            features = tap.take(tokens=labels is not None and labels.dim() > 1).flatten(0, -2)
            check_finite("outsiders", features)
            shown = directions(features) if normalize else features
            total += shown.sum(0, dtype=torch.float64).cpu()
            number += len(features)
    if not number:
        raise ValueError("outsiders must yield at least one sample, got none")
    return total / number


def _with_progress(loader: Iterable[Any], task: str, show: bool) -> Iterable[Any]:
    if not show or not sys.stderr.isatty():
        return loader
    from rich.console import Console
    from rich.progress import track

    try:
        total = len(loader)  # pyright: ignore[reportArgumentType]
    except TypeError:  # a generator, or a loader of a data set that has no length
        total = None
    return track(loader, task, total=total, console=Console(stderr=True), transient=True)
