"""What every test starts from."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_code_released() -> Iterator[None]:
    """Compiled programs hold memory maps, of which a process may have 65,530: more than one suite needs."""
    yield
    jax.clear_caches()
