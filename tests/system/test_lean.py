"""open_clip comes without the compiler, timm and torchvision's models, and these work as ever when they are wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # fresh processes, each of which imports torch's compiler

EAGER = """
import sys
import torch
from everclip.system.lean import lean_imports
from everclip.system.openclip import open_clip
"""

WORKS = """
disable = torch.compiler.disable
assert disable.__module__ == "torch.compiler", disable
assert type(sys.modules.get("torch._dynamo.utils", sys)) is type(sys)

from importlib import import_module
roi_align = import_module("torchvision.ops.roi_align")
image = torch.arange(64.0).reshape(1, 1, 8, 8)
pooled = torch.tensor([[[[9.0, 11.0], [25.0, 27.0]]]])
assert torch.allclose(roi_align.roi_align(image, [torch.tensor([[0.0, 0, 4, 4]])], 2), pooled)
assert torch.allclose(roi_align._roi_align(image, torch.tensor([[0.0, 0, 0, 4, 4]]), 1.0, 2, 2, 2, False), pooled)

x, linear = torch.ones(1, 2), torch.nn.Linear(2, 2)
assert torch.allclose(torch.compile(linear, backend="eager")(x), linear(x))
assert type(torch._dynamo.utils) is type(sys) and torch._dynamo.utils.counters is not None
"""

DISABLED = """
with lean_imports():
    taken = torch.compiler.disable
    plain, named = taken(lambda x: 2 * x), taken(recursive=True)(lambda x: 3 * x)
    assert "torch._dynamo" not in sys.modules
    assert plain(torch.ones(1)) == 2  # called before the import is over

parts = []
def count(graph, inputs):
    parts.append(graph)
    return graph.forward
for function, factor in ((plain, 2), (named, 3), (torch.compiler.disable(lambda x: 4 * x), 4)):
    parts.clear()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: function(x + 1) + 1, backend=count)
    assert compiled(torch.ones(1)) == 2 * factor + 1
    assert len(parts) == 2, parts
"""


def check(*parts: str) -> None:
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", "\n".join(parts)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_compiler_stays_out_and_works_when_it_is_wanted() -> None:
    loaded = "from everclip.backbone import Backbone; Backbone.load('embedded')"
    check(EAGER, loaded, "assert 'torch._dynamo' not in sys.modules, 'loaded'", WORKS)


@pytest.mark.parametrize("first", ["import torchvision", "import torch._dynamo"])
def test_what_was_imported_before_is_left_alone(first: str) -> None:
    check(first, EAGER, WORKS)


@pytest.mark.parametrize(
    "asked",
    [
        "import torch._dynamo.config; torch._dynamo.config.cache_size_limit = 64",
        "from torch._dynamo.utils import counters, is_compile_supported as supported; assert supported('cpu') is True",
    ],
)
def test_whatever_else_an_import_asks_for_is_torchs_own(asked: str) -> None:
    check(EAGER, "with lean_imports():", f"    {asked}", WORKS)


def test_disabled_functions_break_the_graph_as_ever() -> None:
    check(EAGER, DISABLED)


TOWERS = """
import timm, torchvision
from torchvision import datasets
from torchvision.models import alexnet
assert datasets.CIFAR10 is torchvision.datasets.CIFAR10 and datasets.__file__
assert torchvision.models.alexnet is alexnet and alexnet().classifier
assert all(type(sys.modules[n]) is type(sys) for n in ("timm", "timm.layers", "torchvision.models"))
"""

TIMM = """
tower = dict(timm_model_name="vit_tiny_patch16_224", image_size=224, timm_pool="avg", timm_proj="mlp")
cfg = dict(embed_dim=8, vision_cfg=tower, text_cfg=dict(width=8, heads=2, layers=1))
from open_clip.model import CustomTextCLIP, CLIP
visual = CLIP(**cfg).visual
import timm
assert isinstance(visual.trunk, timm.models.vision_transformer.VisionTransformer)
assert isinstance(visual.head.mlp, timm.layers.Mlp)
assert visual(torch.ones(1, 3, 224, 224)).shape == (1, 8)
"""


def test_what_no_answer_needs_stays_out_and_works_when_it_is_wanted() -> None:
    out = "assert not {'timm', 'timm.layers', 'torchvision.models', 'torchvision.datasets'} & set(sys.modules)"
    check(EAGER, "from everclip.backbone import Backbone; Backbone.load('embedded')", out, TIMM, TOWERS)


@pytest.mark.parametrize(
    "inside",
    [
        "import torchvision.models._utils",
        "from timm.layers.mlp import Mlp",
        "import timm.data",
        "import importlib.util; assert importlib.util.find_spec('timm') and importlib.util.find_spec('timm.layers')",
    ],
)
def test_what_is_asked_of_a_stand_in_is_found(inside: str) -> None:
    lean = "import sys, torch\nfrom everclip.system.lean import lean_imports\nwith lean_imports():"
    check(lean, f"    {inside}", TOWERS)
