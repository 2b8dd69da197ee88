"""Completes a Python, which has JAX, for the GPU kernels: what it lacks comes from a folder of wheels, into a folder.

Or says in one line what it lacks.  Nothing but the standard library is needed, and no package registry.
"""

import argparse
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

NEEDED = {
    "jax": "0.10",
    "jaxlib": "0.10",
    "numpy": "2.0",
    "triton": "3.6",
    "jax-triton": "0.3.1",
    "absl-py": "1.4",
    "ml-dtypes": "0.5",
    "opt-einsum": "3.3",
    "scipy": "1.12",
}
"""Distributions and their oldest releases: the package's own requirements, and what these require."""


def main() -> int:
    """0 where nothing is lacking any more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=Path, required=True, help="folder to install into, to be put on PYTHONPATH")
    parser.add_argument("--wheels", type=Path, help="folder of wheels")
    options = parser.parse_args()
    obstacle = complete(options.site, options.wheels)
    if obstacle:
        print(f"{sys.executable} cannot run GPU kernels: {obstacle}", file=sys.stderr)
    return 1 if obstacle else 0


def complete(site: Path, wheels: Path | None) -> str | None:
    """What is in the way after everything that the wheels have has been installed."""
    names = lacking()
    if not names:
        return None
    if wheels is None:
        return f"it lacks {', '.join(names)}; name a folder that has wheels of these by --wheels FOLDER"
    unavailable = [name for name in names if not installed(name, site, wheels)]
    return f"it lacks {', '.join(unavailable)}, and no wheel in {wheels} fits" if unavailable else None


def lacking() -> list[str]:
    """What is not installed, or too old, each with its oldest release that will do."""
    return [f"{name}>={least}" for name, least in NEEDED.items() if release(name) < numbers(least)]


def release(distribution: str) -> tuple[int, ...]:
    """That is installed; of nothing where none is."""
    try:
        return numbers(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return ()


def numbers(version: str) -> tuple[int, ...]:
    """Those of the release, of which three are enough."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def installed(requirement: str, site: Path, wheels: Path) -> bool:
    """Whether a wheel fitted and is now in ``site``."""
    options = ["--quiet", "--no-index", "--no-deps", "--find-links", str(wheels), "--target", str(site)]
    # An environment without pip borrows that of the Python that made it.
    own = importlib.util.find_spec("pip") is not None
    python = sys.executable if own else sys._base_executable  # type: ignore[attr-defined]
    pip = [python, "-m", "pip", "--python", sys.executable, "--disable-pip-version-check"]
    return subprocess.run([*pip, "install", *options, requirement], capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
