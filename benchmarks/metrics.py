"""All metrics beside two published tools, stage by stage: time and memory in one run.

    python benchmarks/metrics.py [--samples 50000] [--dim 512] [--classes 10 100 1000]
        [--peer CHECKOUT ...]

Beside ours, on the same features: rhubarbwu/neural-collapse and felixsh/nc-toolbox, where they can
be imported or their checkouts are named with `--peer`. One thread, one process a measurement, the
tools in turns, the least of the repetitions: processor seconds, and the most memory resident above
what was there before the stage, features excluded. The stages:

    statistics  class means, within-class variances and covariance (one pass; the peers need two)
    decisions   agreement of the classifier with the nearest class mean (NC4)
    variability NC1 with the pseudo-inverse, and of the traces
    angles      norms, angles and distance to the simplex of means and classifier, duality
    pairs       CDNV and the energies of all pairs of classes

The peers compute fewer numbers in each: `angles` of ours has twelve, `pairs` five.
"""

import argparse
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import neuralcollapse as ours
from neuralcollapse import *  # noqa: F403  # the face is lazy; its imports are not to be timed
from neuralcollapse.metrics import evaluate

STAGES = ("statistics", "decisions", "variability", "angles", "pairs")
Stages = dict[str, Callable[[], Any]]


class Data:
    """Noisy class means, samples of them, and a classifier along them."""

    def __init__(self, samples: int, dim: int, num_classes: int, batch: int):
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(num_classes, dim, generator=generator)
        self.labels = torch.arange(samples) % num_classes
        self.features = torch.randn(samples, dim, generator=generator)
        for rows in torch.arange(samples).split(1 << 16):
            self.features[rows] += means[self.labels[rows]]
        self.weight = means - means.mean(0)
        self.bias = torch.zeros(num_classes)
        self.num_classes, self.dim, self.batch = num_classes, dim, batch

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The samples, so many at a time."""
        return zip(self.features.split(self.batch), self.labels.split(self.batch), strict=True)


def of_ours(data: Data) -> Stages:
    """Functions of the library's face."""
    state: dict[str, Any] = {}

    def statistics() -> None:
        accumulator = ours.StatisticsAccumulator(data.num_classes, data.dim)
        for features, labels in data.batches():
            accumulator.update(features, labels)
        state["statistics"] = accumulator.result()

    def decisions() -> None:
        ours.nc4_disagreement(state["statistics"], data.features, data.weight, data.bias)

    def variability() -> None:
        ours.nc1(state["statistics"])
        ours.nc1_trace_ratio(state["statistics"])

    def angles() -> None:
        of_means = ours.nc2_equinorm, ours.nc2_equiangle, ours.nc2_max_angle, ours.nc2_etf_distance
        rows = ours.nc2w_equinorm, ours.nc2w_equiangle, ours.nc2w_max_angle, ours.nc2w_etf_distance
        both = ours.nc3_duality, ours.nc3_alignment, ours.gnc3_alignment_spread
        for metric in of_means:
            metric(state["statistics"])
        for metric in rows:
            metric(data.weight)
        for metric in both:
            metric(state["statistics"], data.weight)

    def pairs() -> None:
        wanted = {"cdnv", "gnc2_log_mean", "gnc2_log_variance", "gnc2_gaussian", "hug_inter"}
        others = {row.key: "another stage" for row in ours.METRICS if row.key not in wanted}
        evaluate(state["statistics"], known=others)

    stages = statistics, decisions, variability, angles, pairs
    return dict(zip(STAGES, stages, strict=True))


def of_neural_collapse(data: Data) -> Stages:
    """rhubarbwu/neural-collapse; kernels in tiles where whole ones take more than 4 GiB."""
    from neural_collapse import accumulate, kernels, measure  # pyright: ignore

    state: dict[str, Any] = {}
    whole = 2 * 4 * data.num_classes**2 * data.dim <= 4 << 30
    tile = None if whole else 64

    def statistics() -> None:
        means = accumulate.MeanAccumulator(data.num_classes, data.dim)
        for features, labels in data.batches():
            means.accumulate(features, labels)
        centres, state["global"] = means.compute()
        variances = accumulate.VarNormAccumulator(data.num_classes, data.dim, M=centres)
        covariance = accumulate.CovarAccumulator(data.num_classes, data.dim, M=centres)
        for features, labels in data.batches():
            variances.accumulate(features, labels, centres)
            covariance.accumulate(features, labels, centres)
        state["means"], state["variances"] = centres, variances.compute()[0]
        state["covariance"] = covariance.compute()

    def decisions() -> None:
        agreement = accumulate.DecAccumulator(data.num_classes, data.dim)
        for features, labels in data.batches():
            agreement.accumulate(features, labels, data.weight, state["means"])
        measure.clf_ncc_agreement(agreement)

    def variability() -> None:
        for kind in ("pinv", "quotient"):
            measure.covariance_ratio(
                state["covariance"], state["means"], state["global"], metric=kind
            )

    def angles() -> None:
        for vectors, centre in ((state["means"], state["global"]), (data.weight, 0)):
            measure.mean_norms(vectors, centre)
            measure.interference_grid(vectors, centre)
            measure.simplex_etf_error(vectors, centre)
        measure.self_duality_error(data.weight, state["means"], state["global"])
        measure.similarities(data.weight, state["means"], state["global"], cos=True)

    def pairs() -> None:
        measure.variability_cdnv(state["variances"], state["means"], tile_size=tile)
        for kernel in (kernels.log_kernel, kernels.dist_kernel):
            kernels.kernel_stats(state["means"], state["global"], kernel, tile_size=tile)

    stages = statistics, decisions, variability, angles, pairs
    return dict(zip(STAGES, stages, strict=True))


def of_nc_toolbox(data: Data) -> Stages:
    """felixsh/nc-toolbox, on all features at once as it works; NC1 takes its covariance along."""
    import nc_toolbox as peer  # pyright: ignore

    features, labels = data.features.numpy(), data.labels.numpy()
    weight, bias = data.weight.numpy(), data.bias.numpy()
    state: dict[str, Any] = {}

    def statistics() -> None:
        state["means"] = peer.class_embedding_means(features, labels)
        state["global"] = peer.global_embedding_mean(features)
        state["variances"] = peer.class_embedding_variances(features, labels, state["means"])

    def decisions() -> None:
        peer.nc4_classifier_agreement(features, weight, bias, state["means"])

    def variability() -> None:
        peer.nc1_strong(features, labels, state["means"], state["global"])

    def angles() -> None:
        peer.nc2_equinormness(state["means"], state["global"])
        peer.nc2_equiangularity(state["means"], state["global"])
        peer.nc3_self_duality(weight, state["means"], state["global"])
        peer.unc3_uniform_duality(weight, state["means"], state["global"])

    def pairs() -> None:
        peer.nc1_cdnv(state["means"], state["variances"])
        peer.gnc2_hypershperical_uniformity(state["means"], state["global"])

    stages = statistics, decisions, variability, angles, pairs
    return dict(zip(STAGES, stages, strict=True))


def status(name: str) -> int:
    """A line of /proc/self/status in bytes, Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    return 0


def measured(tool: Callable[[Data], Stages], data: Data, stages: Sequence[str], send: Any) -> None:
    """Run in a process of its own: (processor seconds, peak bytes) or what went wrong, by stage."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    try:
        tasks = tool(data)
        for name in stages:
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            before, began = status("VmRSS"), time.process_time()
            tasks[name]()
            seconds = time.process_time() - began
            found[name] = seconds, status("VmHWM") - before
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    send.send(found)


def best(
    tools: dict[str, Callable[[Data], Stages]], data: Data, stages: Sequence[str], repetitions: int
) -> dict[str, dict[str, Any]]:
    """The least of each stage's seconds and bytes, the tools in turns."""
    context = multiprocessing.get_context("fork")  # shares the features
    results: dict[str, dict[str, Any]] = {name: {} for name in tools}
    for _ in range(repetitions):
        for name, tool in tools.items():
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=measured, args=(tool, data, stages, send))
            process.start()
            send.close()
            try:
                found = receive.recv()
            except EOFError:
                found = {"error": "the process was killed, for want of memory perhaps"}
            process.join()
            for stage, value in found.items():
                if stage == "error":
                    results[name]["error"] = value
                    continue
                kept = results[name].get(stage, value)
                results[name][stage] = min(kept[0], value[0]), min(kept[1], value[1])
    return results


def show(results: dict[str, dict[str, Any]], stages: Sequence[str]) -> None:
    """One line a stage: ours, and each peer as a multiple of it."""
    mine = results["ours"]
    if "error" in mine:
        print(f"  ours: {mine['error']}")
        return
    for stage in [*stages, "in all"]:
        line = f"  {stage:<12}"
        for name, theirs in results.items():
            if stage == "in all":
                if not all(s in theirs for s in stages):
                    line += f"  {name}: -"
                    continue
                value = sum(theirs[s][0] for s in stages), max(theirs[s][1] for s in stages)
                own = sum(mine[s][0] for s in stages), max(mine[s][1] for s in stages)
            elif stage in theirs:
                value, own = theirs[stage], mine[stage]
            else:
                line += f"  {name}: -"
                continue
            line += f"  {name} {value[0]:8.3f} s {value[1] / 1e6:7.0f} MB"
            if name != "ours":
                line += f" (x{value[0] / own[0]:.1f}, x{value[1] / max(own[1], 1e6):.1f})"
        print(line)
    for name, theirs in results.items():
        if "error" in theirs:
            print(f"  {name}: {theirs['error']}")


def main() -> None:
    """Print a table for each number of classes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=STAGES)
    parser.add_argument("--peer", type=Path, action="append", default=[], help="a checkout")
    parser.add_argument("--without", nargs="+", default=[], help="names of peers to leave out")
    options = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("this benchmark reads the peak of memory from /proc, which is Linux only")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.path[:0] = [str(path) for path in options.peer]
    torch.set_num_threads(1)
    tools: dict[str, Callable[[Data], Stages]] = {"ours": of_ours}
    peers = {"neural_collapse": of_neural_collapse, "nc_toolbox": of_nc_toolbox}
    for name, tool in peers.items():
        try:
            __import__(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        if name not in options.without:
            tools[name] = tool
    machine = platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {machine}, one thread; in brackets, the peer's over ours")
    for num_classes in options.classes:
        print(f"N={options.samples}, d={options.dim}, K={num_classes}, batch {options.batch}")
        data = Data(options.samples, options.dim, num_classes, options.batch)
        show(best(tools, data, options.stages, options.repetitions), options.stages)


if __name__ == "__main__":
    main()
