"""Every Python block of the README and of the documentation runs, in the order of its page."""

import re
import sys
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pytest
import torch

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [p for p in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if BLOCK.search(p.read_text("utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    torch.manual_seed(0)
    text = page.read_text("utf-8")
    if "openmm_trajectory(" in text:
        pytest.importorskip("openmm", reason="OpenMM comes with the extra flowgroup[boltzmann]")
    module = ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, page.stem, module)  # so that classes defined on the page can be pickled
    for block in BLOCK.finditer(text):
        # empty lines in front, so that an error names the line of the page
        source = "\n" * text[: block.start(1)].count("\n") + block[1]
        exec(compile(source, str(page), "exec"), module.__dict__)
    plt.close("all")
