"""How the site is built: `make docs` writes it to build/docs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs/_ext"))
os.environ.setdefault("EVERCLIP_CACHE", str(ROOT / "build/cache"))  # what examples cache stays in the project
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the examples are small: threads would only wait for each other
# The gallery would take examples/plugin, a package with a README, for a section of its own.
STAGE = ROOT / "build/examples"
shutil.rmtree(STAGE, ignore_errors=True)
STAGE.mkdir(parents=True)
for script in (ROOT / "examples").glob("*.py"):
    shutil.copy(script, STAGE)
(STAGE / "GALLERY_HEADER.rst").write_text(
    "Examples\n========\n\nEach script was run when this page was built, and is shown with what it printed and drew. "
    "They lie in ``examples/``.\n",
    encoding="utf-8",
)

from everclip import __version__  # noqa: E402  (the cache must be named first)

project = "EverCLIP"
author = "The EverCLIP authors"
copyright = "the EverCLIP authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "everclip_pages",
]
exclude_patterns = ["_ext", "results/*.json"]
default_role = "code"  # docstrings say `name`, as Markdown does
nitpicky = False
suppress_warnings = ["config.cache"]  # the gallery's settings hold no plain data; nothing is wrong with the page

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": str(STAGE),
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "run_stale_examples": True,  # a script that has not changed may print something else with other code
    "abort_on_example_error": True,
    "plot_gallery": "True",
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "reset_argv": lambda gallery_conf, script_vars: [],
    "write_computation_times": False,  # they differ from build to build, and their page wants a script from elsewhere
    "min_reported_time": 1e9,
}

html_theme = "furo"
html_title = "EverCLIP"
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
