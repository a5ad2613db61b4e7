"""Features in many files on a Ray cluster: every file a task, statistics merged as a tree.

A task reads one file and has no effect but its result. Where a worker dies, Ray runs its tasks
again elsewhere and recomputes results that were lost with it; results are referred to by file, so
that no file counts twice or not at all.
"""

import copy
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from neuralcollapse.dealing import MOST_PARTS, merged
from neuralcollapse.feature_files import check_distinct, named
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.scalars import check_booleans
from neuralcollapse.second_look import SecondLook
from neuralcollapse.shards import (
    ShardMeasurement,
    ShardReader,
    add_totals,
    concluded,
    deals,
    part_of,
)
from neuralcollapse.statistics import ClassStatistics, GlobalMean

# Statistics merged by one task.
_FAN_IN = 4
# Workers that may die under one task before that is an error: a file may be too large for any.
_RETRIES = 5
# Until a machine answers.
_SECONDS = 10.0


def measure_shards_on_ray(
    files: Sequence[str | Path],
    weight: Any = None,
    bias: Any = None,
    num_classes: int | None = None,
    *,
    address: str | None = None,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    outsiders: Any = None,
    split: str | None = None,
    scatter: bool | None = None,
    skip_bad: bool = False,
    jackknife: bool = False,
) -> ShardMeasurement:
    """`measure_shards` with the files read by the workers of a Ray cluster.

    The same result but for rounding. The paths must name the same files on every machine. Needs
    the extra `ray`.

    Args:
        files: as of `measure_shards`.
        weight: (K, d), the classifier, instead of the files'.
        bias: (K,), its bias, or None.
        num_classes: K; by default the rows of `weight`, or the largest label plus one.
        address: of a cluster: "auto" for the one on this machine, "host:port" for one that this
            machine has joined, or "ray://host:port" for any (needs ray[client]); None uses the one
            that `ray.init` has connected to, or starts one on this machine and ends it.
        normalize: scale every feature to unit length first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: as of `measure_shards`.
        outsiders: as of `measure_shards`.
        split: what the data is, for the record, e.g. "train".
        scatter: as of `measure_shards`.
        skip_bad: leave out files that cannot be read or do not fit, and say which and why.
        jackknife: also find intervals, from up to 20 parts of the data.

    Raises:
        ImportError: if ray cannot be imported.
        ValueError: if a file cannot be read or does not fit (it is named), or no sample is left.
        ConnectionError: if there is no cluster at the address, or it does not let this process in.
    """
    check_booleans(skip_bad=skip_bad, jackknife=jackknife)
    reader = ShardReader.of(weight, bias, num_classes, normalize, scatter)
    paths = check_distinct(files)
    try:
        import ray
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"the engine ray needs ray, which cannot be imported ({error}); install it with "
            "pip install 'neuralcollapse[ray]'"
        ) from None
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {} if address else {"include_dashboard": False}
        _check_answers(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except ConnectionError as error:
            raise ConnectionError(
                f"address must be of a Ray cluster that lets this process in, got {address!r} "
                f"({error}); if the cluster asks for a token, set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN where the token is not in ~/.ray/auth_token"
            ) from None
    try:
        return _measured(
            ray,
            reader,
            [path.absolute() for path in paths],
            {path.absolute(): path for path in paths},
            global_mean=global_mean,
            weighting=weighting,
            outsiders=outsiders,
            split=split,
            skip_bad=skip_bad,
            jackknife=jackknife,
        )
    finally:
        if started:
            ray.shutdown()


def _check_answers(address: str | None) -> None:
    """That somebody listens there, before Ray tries for minutes."""
    named_place = urlsplit(address if address and "://" in address else f"//{address or ''}")
    try:
        host, port = named_place.hostname, named_place.port
        if host and port:
            socket.create_connection((host, port), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"address must be of a Ray cluster that is running, got {address!r} ({error}); "
            "is `ray start --head` running there, and is this its port?"
        ) from None


def _measured(
    ray: Any,
    reader: ShardReader,
    paths: Sequence[Path],
    given: dict[Path, Path],
    *,
    global_mean: GlobalMean,
    weighting: Weighting | None,
    outsiders: Any,
    split: str | None,
    skip_bad: bool,
    jackknife: bool,
) -> ShardMeasurement:
    deal = deals(paths, jackknife)
    options = {"max_retries": _RETRIES}
    read = ray.remote(num_returns=1 + (MOST_PARTS if deal else 1), **options)(_read)
    tasks = [read.remote(reader, path, deal.get(path)) for path in paths]
    kept: list[Path] = []
    skipped: dict[Path, str] = {}
    groups: dict[int, list[Any]] = {}
    # In the order of the files, whichever is done first: the result does not depend on chance.
    for path, (summary, *parts) in zip(paths, tasks, strict=True):
        found = ray.get(summary)
        error = found if isinstance(found, Exception) else None
        if not isinstance(found, Exception):
            try:
                reader.join(*found)
            except ValueError as misfit:
                error = misfit
        if error is not None:
            if not skip_bad:
                raise named(given[path], error)
            skipped[given[path]] = str(named(given[path], error))
            continue
        for number, part in enumerate(parts):
            place = number if deal else part_of(len(kept), jackknife)
            groups.setdefault(place, []).append(part)
        kept.append(path)
    merge = ray.remote(**options)(_merge)
    roots = [_root(merge, groups[place]) for place in sorted(groups)]

    def look(seen: SecondLook) -> list[list[Tensor]]:
        shared = ray.put((seen, reader))
        task = ray.remote(**options)(_look)
        totals: list[list[Tensor]] = []
        numbers = [part_of(number, jackknife) for number in range(len(kept))]
        tasks = [
            task.remote(shared, path, deal.get(path), part)
            for path, part in zip(kept, numbers, strict=True)
        ]
        slopes = seen.slopes
        for part, one in zip(numbers, tasks, strict=True):
            by_part, steeper = ray.get(one)
            for place, own in enumerate(by_part):
                add_totals(totals, place if deal else part, [total.clone() for total in own])
            for slope, more in zip(slopes, steeper, strict=True):
                slope += more
        return totals

    return concluded(
        reader,
        ray.get(roots),
        [given[path] for path in kept],
        skipped,
        look,
        global_mean=global_mean,
        weighting=weighting,
        outsiders=outsiders,
        split=split,
        jackknife=jackknife,
    )


def _root(merge: Any, leaves: list[Any]) -> Any:
    """The reference to the merged statistics, a tree of tasks above the leaves."""
    while len(leaves) > 1:
        leaves = [
            merge.remote(*leaves[start : start + _FAN_IN])
            for start in range(0, len(leaves), _FAN_IN)
        ]
    return leaves[0]


def _read(reader: ShardReader, path: Path, first: int | None) -> tuple[Any, ...]:
    """What the file tells beside its statistics, or what is wrong with it; then its statistics."""
    torch.set_num_threads(1)
    try:
        parts = reader.statistics(path, first)
    except (ValueError, TypeError) as error:
        return ValueError(str(error)), *([None] * (1 if first is None else MOST_PARTS))
    return (reader, parts[0].num_classes), *parts


def _merge(*parts: ClassStatistics) -> ClassStatistics:
    torch.set_num_threads(1)
    return merged(parts)


def _look(
    shared: tuple[SecondLook, ShardReader], path: Path, first: int | None, part: int
) -> tuple[list[list[Tensor]], list[Tensor]]:
    torch.set_num_threads(1)
    # What is shared is read-only, and sums are not; the rests are not written to.
    rests = shared[0].rests
    seen, reader = copy.deepcopy(shared, {id(rests): rests})
    return reader.look(seen, path, first, part), seen.slopes
