"""The site: `make docs` builds it with Sphinx from README, the executed notebooks and the package's
docstrings.

Nothing here lists notebooks, modules or results: what exists is on the site. Nothing is executed or
fetched.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # the table of the records

import gluonlm

project = "gluonlm"
release = gluonlm.__version__
root_doc = "index"
exclude_patterns = ["_build", "_generated", "guide/records.md", "**.ipynb_checkpoints"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "docstrings",
    "mathml",
    "pages",
    "social",
]

nb_execution_mode = "off"  # the committed outputs are the ones that the tests check
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show code", "Hide code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

nitpicky = True
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(?!gluonlm\.)\w+\..*",
    ),  # the documentation of other libraries cannot be asked offline
    ("py:(attr|data)", ".*"),  # attributes and constants have no entries of their own
]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # MXNet's own say nothing about a model
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90

html_theme = "furo"
html_title = "gluonlm"
html_baseurl = os.environ.get("SITE_URL", "")
html_static_path = ["_static"]
SITE = Path(__file__).parent / "_generated" / "site"  # the live page, made before it is copied
SITE.mkdir(parents=True, exist_ok=True)
html_extra_path = [str(SITE)]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).parent / "_ext" / "search.js")
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
