"""Every contender on multilayer perceptrons, with the same images: a table, and accuracy by time.

    python -m benchmarks.studies.contenders --data-dir FOLDER
    python -m benchmarks.studies.contenders --data-dir FOLDER --networks 784-128-10 --contenders "layer; Adam"

Gradients and directions with the same optimisers, on MNIST, by the functions of directions.py. The rate of each is the
best of three on images that are held back, seed 11, of deep networks seeds 11 to 15; then test accuracy after each
epoch, of three seeds, of deep networks of five, and the seconds of the processors until then, without compilation. What
is found takes the place of the same rows in docs/results/contenders.csv, from which contenders.png is drawn.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks import RESULTS
from benchmarks.studies import directions

DEEP = "--batch 128 --samples 20000 --epochs 2 --seeds 1 2 3 4 5 --strength 0.3 --residual"
NETWORKS = {
    "784-128-10": "--hidden 128",
    "784-256-256-10": "--hidden 256 256",
    **{f"plain {depth}": f"--hidden {'64 ' * depth}{DEEP} none" for depth in (4, 8, 17, 32)},
    **{f"residual {depth}": f"--hidden {'64 ' * depth}{DEEP} 1/depth" for depth in (32, 64, 128)},
    "residual 32, 1/sqrt": f"--hidden {'64 ' * 32}{DEEP} 1/sqrt --scale outputs",
}
"""Of each the arguments of directions.py."""
RATES = {
    "momentum": ("0.01", "0.03", "0.1"),
    "Adam": ("3e-4", "1e-3", "3e-3"),
    "Muon": ("3e-3", "1e-2", "3e-2"),
    "none": ("0.03", "0.1", "0.3"),
}
"""Those that are tried of each optimiser."""
OF_STEPS = ("0.003", "0.01", "0.03")
"""Without an optimiser, of several steps of an algorithm, which are longer."""
AT_DEPTH = (
    *(f"gradients; {name}" for name in ("momentum", "Adam", "Muon")),
    "each; Adam", "each; Muon", "layer; Adam", "layer; Muon", "layer, coupled, b = 30, c = 3; Adam",
)  # fmt: skip
"""A rule of directions.py and an optimiser: of the deep networks."""
CONTENDERS = (
    *(f"{rule}; {name}" for rule in ("gradients", "each", "layer") for name in RATES),
    *(f"{rule}; Adam" for rule in directions.RULES if rule not in ("each", "layer") and ", b = " not in rule),
    *(f"{rule}; none" for rule in directions.RULES if "steps" in rule),
)
"""Likewise of the shallow ones."""
FIELDS = ("network", "contender", "rate", "seed", "epoch", "accuracy", "seconds")
Row = dict[str, str]


def is_deep(network: str) -> bool:
    return DEEP in NETWORKS[network]


def learned(network: str, contender: str, data_dir: Path | None) -> list[Row]:
    """A row for each seed and epoch."""
    rule, name = contender.split("; ")
    folder = ["--data-dir", str(data_dir)] if data_dir else []
    of_steps = name == "none" and "steps" in rule
    seeds = ["--choosing-seeds", *("11 12 13 14 15" if is_deep(network) else "11").split()]
    rates = ["--rates", *(OF_STEPS if of_steps else RATES[name])]
    arguments = directions.parse_arguments([*NETWORKS[network].split(), *rates, *seeds, *folder])
    _, rate, runs = directions.find(
        rule, directions.optimizer_of(name.lower()), arguments, directions.splits(arguments)
    )
    rows = [
        (network, contender, f"{rate:g}", seed, epoch, round(accuracy, 2), round(seconds, 2))
        for seed, run in zip(arguments.seeds, runs, strict=True)
        for epoch, (accuracy, seconds) in enumerate(zip(run.accuracies, run.seconds, strict=True), 1)
    ]
    return [dict(zip(FIELDS, map(str, row), strict=True)) for row in rows]


def read(path: Path) -> list[Row]:
    """The rows of an earlier run, if there was one."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row]) -> None:
    """The rows in the order of networks and contenders."""
    networks, contenders = list(NETWORKS), list(dict.fromkeys((*CONTENDERS, *AT_DEPTH)))
    rows = sorted(rows, key=lambda row: (networks.index(row["network"]), contenders.index(row["contender"])))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def means(rows: list[Row]) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Of each network and contender after each epoch: seconds, and accuracy with its standard deviation over seeds."""
    groups: defaultdict[tuple[str, str], defaultdict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["network"], row["contender"]][row["epoch"]].append(row)
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for (network, contender), epochs in groups.items():
        figures = [[[float(row[key]) for row in same] for key in ("seconds", "accuracy")] for same in epochs.values()]
        found.setdefault(network, {})[contender] = [
            (float(np.mean(seconds)), float(np.mean(accuracies)), float(np.std(accuracies)))
            for seconds, accuracies in figures
        ]
    return found


def draw(rows: list[Row]) -> Figure:
    """Test accuracy against the seconds of the processors, a panel for each network."""
    found = means(rows)
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    figure = Figure(figsize=(12, 5 * ((len(found) + 2) // 3) / 1.4), layout="constrained")
    panels = figure.subplots((len(found) + 2) // 3, 3, squeeze=False).flat
    for panel, (network, curves) in zip(panels, found.items(), strict=False):
        for contender, points in curves.items():
            number = contenders.index(contender)
            seconds, accuracies, spreads = zip(*points, strict=True)
            line = ("-", "--", ":")[number // 10 % 3]
            panel.errorbar(seconds, accuracies, spreads, ls=line, c=f"C{number % 10}", lw=1, label=contender)
        lasts = [points[-1][1] for points in curves.values()]
        panel.set(
            title=network, xlabel="processor seconds", ylim=(max(min(lasts) - 1, max(lasts) - 12), max(lasts) + 1)
        )
        panel.grid(alpha=0.3)
    handles = {label: h for panel in figure.axes for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize="small")
    figure.supylabel("test accuracy (%)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz (else PJAX_DATA)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--contenders", nargs="+", choices={*CONTENDERS, *AT_DEPTH}, help="by default all of a network")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of contenders.csv and contenders.png")
    options = parser.parse_args()
    table = options.out / "contenders.csv"
    for network in options.networks:
        of_network = AT_DEPTH if is_deep(network) else CONTENDERS
        for contender in options.contenders or of_network:
            new = learned(network, contender, options.data_dir)
            kept = [row for row in read(table) if (row["network"], row["contender"]) != (network, contender)]
            write(table, kept + new)
            print(network, contender, new[0]["rate"], *(row["accuracy"] for row in new), flush=True)
    draw(read(table)).savefig(options.out / "contenders.png", dpi=100)


if __name__ == "__main__":
    main()
