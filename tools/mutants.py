"""Plants faults, one at a time, in a copy of the tree, and runs the tests that cover them: tools/mutants.py [TEXT].

Prints what becomes of each; one that the tests let through ends it with 1. With a text, those alone whose file has it.
Runs in the environment of the tests, as tools/test makes it; takes some ten minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("benchmarks", "kernels", "pjax_core", "tests", "tools", "pyproject.toml", "README.md")


class Mutant(NamedTuple):
    """A fault: ``text``, which a file has once, replaced; ``tests`` are what should fail, as pytest takes them."""

    file: str
    text: str
    replacement: str
    tests: str


def kernels(file: str, text: str, replacement: str, tests: str) -> Mutant:
    """A fault in a kernel."""
    return Mutant(f"kernels/pjax_kernels/{file}", text, replacement, f"tests/pjax_kernels/{tests}")


MUTANTS = (
    kernels("root.py", "(6 + t2)) + 2 * (1 - c)", "(6 + t2)) - 2 * (1 - c)", "test_root.py"),
    kernels("root.py", "scaled - (one + 0.75 * other)", "scaled - 0.75 * other", "test_root.py"),
    kernels("bilinear/xla.py", "gamma * (b + sign * a)", "gamma * (b + a)", "test_bilinear.py"),
    kernels("consensus.py", "return sums(radius, -jnp.sign(minus_v) * radius)", "return sums(radius, radius)",
            "test_bilinear_map.py -k free"),
    kernels("consensus.py", "minus_t = jnp.where(length == 0, -z, minus_t)", "minus_t = minus_t + 0",
            "test_errors.py -k entries"),
    kernels("recurrence/xla.py", "(jnp.sum(rows[0], axis=1) + jnp.sum(rows[1], axis=1))", "(jnp.sum(rows[0], axis=1))",
            "test_recurrence.py"),
    kernels("windows.py", "(self.positions >= self.low)", "(self.positions > self.low)", "test_conv.py"),
    kernels("windows.py", "np.maximum(np.outer(rows.coverage, columns.coverage), 1)",
            "np.maximum(np.outer(rows.coverage, columns.coverage), 2)", "test_maximum.py"),
    kernels("maximum/xla.py", "raised = not_raised & (value == top)", "raised = (fall < 0) & (value == top)",
            "test_maximum.py"),
    kernels("maximum/xla.py", "return jnp.where(raised, -fall, -_loss(x, top, fall)), excess - fall",
            "return jnp.where(raised, -fall, -_loss(x, top, fall)), excess + fall", "test_maximum.py"),
    kernels("windows.py", "(self.positions < self.low + self.length)", "(self.positions <= self.low + self.length)",
            "test_affine_maps.py"),
    kernels("sum/xla.py", "* factor**2 + 1)", "* factor + 1)", "test_affine_maps.py"),
    kernels("sum_relu/xla.py", "math.sqrt(count + 1) - 1)", "math.sqrt(count + 1))", "test_sum.py"),
    kernels("quantize/xla.py", ") ** 2 <= (own - below)", ") ** 2 < (own - below)", "test_quantize.py"),
    kernels("threshold/root.py", "jnp.where(excess <= 0, ", "jnp.where(excess < 0, ", "test_threshold.py"),
    kernels("normalize/xla.py", "x - jnp.mean(x, axis=-1, keepdims=True)", "x - jnp.mean(x, axis=0, keepdims=True)",
            "test_normalize.py"),
    kernels("output/xla.py", "jnp.where(labels > 0, ", "jnp.where(labels >= 0, ", "test_output.py"),
    kernels("sets/xla.py", "jnp.cumsum(equal, axis) <= free", "jnp.cumsum(equal, axis) < free", "test_sets.py"),
    kernels("sets/xla.py", "value - below > level - value", "value - below >= level - value", "test_sets.py"),
    Mutant("pjax_core/copies/factored.py", "sum(c.x[self.history :])", "sum(c.x[self.history + 1 :])",
           "tests/pjax_core/test_copies.py -k left_out"),
    Mutant("pjax_core/algorithms/reflections.py", "keep, gain = 1 - 2 * relaxation,", "keep, gain = 1 - relaxation,",
           "tests/pjax_core/test_reflections.py"),
)  # fmt: skip


def planted(source: str, mutant: Mutant) -> str:
    """The source with the fault; a ``ValueError`` where its text is not there once."""
    if source.count(mutant.text) != 1:
        raise ValueError(f"{mutant.file} has {source.count(mutant.text)} times, not once: {mutant.text}")
    return source.replace(mutant.text, mutant.replacement)


def is_caught(tree: Path, mutant: Mutant) -> bool:
    """Whether a test fails with the fault in the copy of the tree, which is left as it was."""
    file = tree / mutant.file
    source = file.read_text()
    file.write_text(planted(source, mutant))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests.split(" ")]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    file.write_text(source)
    if done.returncode not in (0, 1):  # neither passed nor failed
        raise RuntimeError(f"pytest {mutant.tests} ends with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def main(wanted: str = "") -> int:
    """The number of faults that were let through."""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "pjax"
        tree.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        for mutant in (mutant for mutant in MUTANTS if wanted in mutant.file):
            start = time.monotonic()
            caught = is_caught(tree, mutant)
            survivors += not caught
            seconds = f"{time.monotonic() - start:4.0f} s"
            print(f"{'caught' if caught else 'SURVIVED'}  {seconds}  {mutant.file}: {mutant.replacement}", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(min(main(*sys.argv[1:]), 1))
