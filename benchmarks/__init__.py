"""What is measured: the tools for it, on CPUs (measure) and GPUs (gpu), studies, and training on real data (train)."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
"""What came out."""
