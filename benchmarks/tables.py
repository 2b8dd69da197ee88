"""Writes the tables of README.md, kernels/README.md and docs: python -m benchmarks.tables [--check].

Each stands between two comments, of which the first names it, and follows from what is declared and from the files of
docs/results; no figure is written by hand.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import RESULTS, ROOT
from benchmarks.catalogue import DOT_PRODUCTS, ENTRIES, FORMS
from benchmarks.gpu import inspect_kernels
from benchmarks.measure import bench
from benchmarks.studies import contenders as study
from benchmarks.studies import gallery as gallery_study
from benchmarks.studies import gates
from benchmarks.train.loop import ALGORITHM_NAMES
from benchmarks.train.paper import RUNS
from pjax_kernels.implementation import NAMES
from pjax_kernels.kernel import declared

PAGES = ROOT / "README.md", ROOT / "kernels" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))
PLACE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end of table -->)", flags=re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages; with --check none, and 1 if a table is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a table differs")
    options = parser.parse_args(arguments)
    differing = [page for page in PAGES if page.read_text() != filled(page.read_text())]
    for page in differing:
        print(f"{page.relative_to(ROOT)} {'differs' if options.check else 'written'}")
        if not options.check:
            page.write_text(filled(page.read_text()))
    return 1 if options.check and differing else 0


def filled(text: str) -> str:
    """The text with its tables, as they are now."""
    return PLACE.sub(lambda place: place[1] + place[2] + TABLES[place[1]](), text)


def rows_of(name: str) -> list[dict[str, str]]:
    """Of a CSV file among the results."""
    with (RESULTS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def data_of(name: str) -> Any:
    """Of a JSON file among the results."""
    return json.loads((RESULTS / name).read_text())


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measured_on(machine: dict[str, Any]) -> str:
    """A line below a table."""
    return "\n{date:.10}, {cores} cores of {cpu}, jax {jax} on {platform}.\n".format_map(machine)


def catalogue() -> str:
    """Of all kernels."""
    kernels = declared()
    rows = [
        [f"`{name}`", *entry[:2], ", ".join(n for n in NAMES if n in kernels[name].implementations), entry.cost]
        for name, entry in ENTRIES.items()
    ]
    return markdown(["kernel", "constraint", "arguments", "implementations", "cost"], rows)


def dot_products() -> str:
    """Which kernel projects onto which dot products, by what is held of the copies."""
    rows = [[name, *(f"`{kernel}`" for kernel in kernels)] for name, kernels in DOT_PRODUCTS.items()]
    return markdown(["dot products of a", *FORMS], rows)


def floor() -> str:
    """The rows of the fast implementations of kernels, in the order of the measurements."""
    results, kernels = data_of("bench/bench.json"), declared()
    rows = []
    for row in results["benchmarks"]:
        info = row["extra_info"]
        if info["subject"] in kernels and info["contender"] in set(NAMES) - {"reference"}:
            time = f"{1e3 * bench.median(row):.3g} ms"
            figures = f"{info['GB/s']:.3g}", f"{info['share_of_floor']:.0%}"
            rows.append([row["group"], info["contender"], time, *figures])
    return markdown(["kernel, size, dtype", "implementation", "time", "GB/s", "share"], rows) + measured_on(
        results["machine_info"]
    )


def kernels() -> str:
    """The fastest implementation of each kernel on its largest arrays of float32, beside the baseline of its group."""
    results, known = data_of("bench/bench.json"), declared()
    bases, ratios = bench.baselines(results), bench.ratios(results)
    rows = {}
    for row in results["benchmarks"]:  # groups go from small to large arrays
        info = row["extra_info"]
        if info["subject"] in known and info["contender"] == "xla" and row["group"].endswith(", float32"):
            base = bases[row["group"]]
            rows[info["subject"]] = [
                row["group"].removesuffix(", float32"),
                f"{1e3 * bench.median(row):.3g} ms",
                f"{base['extra_info']['contender']} {1e3 * bench.median(base):.3g} ms",
                f"{ratios[row['group'], 'xla']:.2f}",
                f"{info['share_of_floor']:.0%}",
            ]
    heads = ["kernel, largest arrays of float32", "xla", "baseline in the same run", "ratio", "share of the floor"]
    return markdown(heads, rows.values()) + measured_on(results["machine_info"])


def gpu() -> str:
    """What the machine code of the GPU kernels uses; vmap traces a launch more than once."""
    records = data_of("inspect_kernels.json")
    return inspect_kernels.table([record for i, record in enumerate(records) if record not in records[:i]]) + "\n"


def steps_of(file: str) -> str:
    """Iterations beside those of SGD, from what studies/compare.py writes."""
    results = data_of(file)
    batch = results["rows"][0]["batch"]
    names = {"pjax AP in turn": "AP, `in_turn=True`", "SGD": "SGD by `jax.grad`"}
    rows = []
    for row in (row for row in results["rows"] if row["batch"] == batch):
        name = row["name"].replace("naive ", "stored copies, ")
        figures = [f"{row[f'{form}_ms']:.3g} ms ({row[f'{form}_ratio']:.3g})" for form in ("single", "scan")]
        memory = f"{row['memory_bytes'] / 2**20:.3g} MiB ({row['memory_ratio']:.3g})"
        rows.append([names.get(name, name.removeprefix("pjax ")), *figures, memory])
    network = f"{'-'.join(map(str, results['sizes']))}, batch {batch}"
    return markdown([network, "one call", "in a scan", "memory"], rows) + measured_on(results)


def algorithms() -> str:
    """Test accuracy on MNIST by algorithm."""
    rows = [
        [
            ALGORITHM_NAMES[row["algorithm"]],
            f"{float(row['best_mean']):.1f} %",
            f"{float(row['last_mean']):.1f} %",
            f"{float(row['seconds']):.0f} s",
        ]
        for row in rows_of("mnist_algorithms.csv")
    ]
    return markdown(["algorithm", "best", "last", "training"], rows)


def paper() -> str:
    """The paper's networks, and what they reached."""
    rows = []
    for name, run in RUNS.items():
        curve = rows_of(f"{name}/learning_curve.csv")
        accuracies = [float(row["test_accuracy"]) for row in curve]
        reached = f"{max(accuracies):.1%}, {accuracies[-1]:.1%}"
        missed = "" if 100 * max(accuracies) >= run.target else "; not reached"
        seconds = f"{float(curve[-1]['seconds']):.0f} s"
        rows.append([f"{run.what} (`{name}`)", f"{run.target} %", reached + missed, seconds, f"`{run.arguments}`"])
    return markdown(["what", "target", "best, last test accuracy", "training", "arguments"], rows)


def contenders(deep: bool) -> str:
    """Gradients and directions by optimiser: accuracy after the last epoch, rate and processors' seconds."""
    rows = rows_of("contenders.csv")
    found, rates = study.means(rows), {(row["network"], row["contender"]): row["rate"] for row in rows}
    networks = [network for network in found if study.is_deep(network) == deep]

    def cell(network: str, contender: str) -> str:
        if contender not in found[network]:
            return ""
        seconds, accuracy, spread = found[network][contender][-1]
        return f"{accuracy:.2f} +- {spread:.2f} ({rates[network, contender]}; {seconds:.3g} s)"

    named = [
        contender for contender in dict.fromkeys(c for _, c in rates) if any(contender in found[n] for n in networks)
    ]
    return markdown(
        ["contender", *networks], [[name, *(cell(network, name) for network in networks)] for name in named]
    )


def truncation() -> str:
    """Errors of factored copies."""
    rows = [
        [row["network"], row["history"], *(f"{float(row[key]):.0e}" for key in ("error", "worst_layer", "bound"))]
        for row in rows_of("truncation.csv")
    ]
    return markdown(["network", "history", "error", "of the worst layer", "reported bound"], rows)


def depth() -> str:
    """Iterations of alternating projections beside SGD steps, by depth."""
    times = {(row["depth"], row["contender"]): row for row in rows_of("bench/depth.csv")}
    rows = []
    for layers in dict.fromkeys(layers for layers, _ in times):
        ap, sgd = times[layers, "AP"], times[layers, "SGD"]
        ratios = [f"{float(ap[form]) / float(sgd[form]):.2f}" for form in ("single_ms", "scan_ms")]
        rows.append([layers, *ratios, *(f"{float(row['compile_seconds']):.2g} s" for row in (ap, sgd))])
    return markdown(["layers", "one call", "in a scan", "compiling AP", "compiling SGD"], rows)


def gallery() -> str:
    """Networks of threshold functions: what projections found, and gradients in the same seconds."""
    rows = []
    for name, entry, record in gallery_study.records():
        settings = record["settings"]
        what = f"[{entry.title}](#{name}), {'-'.join(map(str, settings['widths']))}, {settings['items']} items"
        for result in record["results"]:
            first = settings["until"] == "any" and result["contender"] == "projections"
            figures = [
                f"{result['exact']} of {result['starts']}{', the first' if first else ''}",
                ", ".join(f"{steps:,.0f}" for steps in dict.fromkeys(result["steps"] or ())),
                f"{result['seconds']:.3g}",
                "" if result["held_out"] is None else f"{result['held_out']:.1%}",
            ]
            rows.append([what, result["contender"], *figures])
            what = ""
    for row in rows_of("perceptron.csv"):
        if row["load"] == "0.6":
            first = row["contender"] == "projections"
            what = f"[binary perceptron](#perceptron), width {row['width']}, load {row['load']}" if first else ""
            rows.append([what, row["contender"], *solved_instances(row), ""])
    return markdown(["task", "contender", "right", "iterations: quartiles", "seconds", "held-out outputs right"], rows)


def solved_instances(row: dict[str, str]) -> list[str]:
    """How many, and in how many steps and seconds."""
    solved = f"{row['solved']} of {row['instances']}"
    if row["solved"] == "0":
        return [solved, "", ""]
    quartiles = [f"{float(row[key]):,.0f}" for key in ("first_quartile", "median_steps", "third_quartile")]
    return [solved, ", ".join(quartiles), row["median_seconds"]]


def perceptron() -> str:
    """Instances solved by load."""
    rows = [[row["width"], row["load"], row["contender"], *solved_instances(row)] for row in rows_of("perceptron.csv")]
    return markdown(["width", "load", "contender", "solved", "steps: quartiles", "seconds: median"], rows)


def drawings() -> str:
    """The circuits of the gallery, drawn and as gates."""
    parts = []
    for name, entry, record in gallery_study.records():
        settings = record["settings"]
        limits = f"{settings['starts']} starts of at most {settings['steps']:,} steps, seed {settings['seed']}"
        until = " until one is solved" if settings["until"] == "any" else ""
        constants = ", ".join(f"{key} {settings[key]:g}" for key in ("beta", "gamma", "gap"))
        words = gates.described(gallery_study.circuit_of(record))
        parts.append(
            f'\n### <a id="{name}"></a>{entry.title[0].upper()}{entry.title[1:]}\n\n{limits}{until}; {constants}; '
            f"{record['machine']}.\n\n![The circuit as gates](results/gallery/{name}.svg)\n\n"
            f"<details><summary>As gates</summary>\n\n```\n{words}\n```\n\n</details>\n"
        )
    return "".join(parts) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "catalogue": catalogue,
    "dot_products": dot_products,
    "floor": floor,
    "kernels": kernels,
    "gpu": gpu,
    "steps": lambda: steps_of("compare_cpu.json"),
    "reflections": lambda: steps_of("compare_reflections_cpu.json"),
    "algorithms": algorithms,
    "paper": paper,
    "contenders": lambda: contenders(deep=False),
    "contenders_at_depth": lambda: contenders(deep=True),
    "truncation": truncation,
    "depth": depth,
    "gallery": gallery,
    "drawings": drawings,
    "perceptron": perceptron,
}

if __name__ == "__main__":
    sys.exit(main())
