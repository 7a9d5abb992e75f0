"""Sphinx configuration: `make docs`. Nothing is fetched while building."""

import pkgutil
import re
from pathlib import Path

import flowgroup

project = "flowgroup"
author = "flowgroup's authors"
copyright = author
version = release = flowgroup.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "flowgroup"
html_static_path = []

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
default_role = "literal"

# Docstrings are plain text with formulas, not reStructuredText: |x|, (*batch, *event) and names_ mean themselves.
_MARKUP = re.compile(r"(?<!`)`[^`]+`(?!`)|``.+?``|:\w+:`[^`]+`|[*|]|_(?!\w)")


PAGE = """{name}
{line}

.. automodule:: {name}
   :members:
   :show-inheritance:
"""


def write_api_pages(app):
    """One page for each public package: what its `__all__` names."""
    folder = Path(app.srcdir, "api", "generated")
    folder.mkdir(parents=True, exist_ok=True)
    names = {m.name for m in pkgutil.iter_modules(flowgroup.__path__) if not m.name.startswith("_")}
    for old in folder.glob("*.rst"):
        if old.stem not in names:
            old.unlink()
    for name in names:
        title = f"flowgroup.{name}"
        page, text = folder / f"{name}.rst", PAGE.format(name=title, line="=" * len(title))
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def _escape(text):
    return _MARKUP.sub(lambda m: m[0] if len(m[0]) > 1 else "\\" + m[0], text)


def plain_text(app, what, name, obj, options, lines):
    """Escape what reStructuredText would read as markup, outside of code and examples."""
    in_example = False
    for i, line in enumerate(lines):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if not in_example:
            lines[i] = _escape(line)


def defined_elsewhere(app, what, name, obj, skip, options):
    """Leave out what a package offers too but another one of ours documents."""
    home = getattr(obj, "__module__", None) or ""
    page = "flowgroup." + Path(app.env.docname).name
    if what == "module" and home.startswith("flowgroup.") and not f"{home}.".startswith(f"{page}."):
        return True
    return None  # as autodoc sees fit


def setup(app):
    app.connect("builder-inited", write_api_pages)
    app.connect("autodoc-process-docstring", plain_text, priority=100)
    app.connect("autodoc-skip-member", defined_elsewhere)
