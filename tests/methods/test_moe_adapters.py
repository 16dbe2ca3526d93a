"""MoE-Adapters against the recorded numbers, and the laws it promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from everclip.backbone import Backbone
from everclip.engine.recipe import lr_at
from everclip.errors import InputError
from everclip.layers import moe
from everclip.methods import ORIGINAL, Batch
from everclip.methods.moe_adapters import MoEAdapters, MoEAdaptersConfig
from everclip.streams import TaskInfo

TOWERS = ("image", "text")


def info(index: int) -> TaskInfo:
    return TaskInfo(index, f"task{index}", ("a", "b"), ("{}",))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


@pytest.fixture
def settings(golden) -> dict:
    return golden.settings["moe"]


@pytest.fixture
def learner(golden, golden_clip: Backbone, settings: dict) -> MoEAdapters:
    """The recorded experts and routers of all tasks, before any training."""
    config = MoEAdaptersConfig(
        experts=settings["experts"], top_k=settings["top_k"], bottleneck=settings["bottleneck"],
        scale=settings["scale"], dropout=0.0, freeze=golden.settings["moe_step"]["experts_frozen_per_block"],
    )  # fmt: skip
    method = MoEAdapters(golden_clip, config)
    for index in range(settings["tasks"]):
        method.begin_task(info(index))
    load(method, golden("moe_weights"))
    return method.eval()


def parameter(method: MoEAdapters, name: str) -> torch.nn.Parameter:
    """A parameter by its golden name, `{tower}.block{i}.expert{e}.down.weight` or `{tower}.block{i}.task{t}.router`."""
    tower, block, unit, rest = name.split(".", 3)
    branch = method.towers[tower][int(block.removeprefix("block"))]
    if unit.startswith("expert"):
        return branch.experts[int(unit.removeprefix("expert"))].get_parameter(rest)
    router = branch.routers[int(unit.removeprefix("task"))]
    return router.gate if rest == "router" else router.noise


@torch.no_grad()
def load(method: MoEAdapters, weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        parameter(method, name).copy_(value)


def routes(count: int, task: int) -> Tensor:
    return torch.full((count,), task)


@pytest.mark.parametrize("case", ["top2", "dense2", "top1"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gating(golden, case: str, mode: str) -> None:
    recorded = golden("moe_gating")
    get = lambda name: recorded[f"{case}.{name}"]  # noqa: E731
    k = get(f"{mode}.selected").shape[1]
    logits = get("inputs") @ get("router_weight")
    level = F.softplus(get("inputs") @ get("noise_weight")) + golden.settings["moe"]["noise_epsilon"]
    noise = get("standard_normal_noise")
    gates, experts = moe.noisy_top_k(logits, level, k, noise if mode == "train" else None)
    dense = torch.zeros_like(logits).scatter(1, experts, gates)
    close(dense, get(f"{mode}.gates"), 1e-6)
    assert torch.equal(experts.sort(dim=1).values, get(f"{mode}.selected"))
    weight = moe.importance(gates, experts, logits.shape[1])
    close(weight, get(f"{mode}.importance"))
    count = torch.bincount(experts.flatten(), minlength=logits.shape[1])
    assert torch.equal(count, get(f"{mode}.hard_count"))
    smooth = mode == "train" and k < logits.shape[1]
    load = moe.smooth_load(logits, level, k, noise) if smooth else count.float()
    close(load, get(f"{mode}.load"))
    close(moe.squared_variation(weight).reshape(1), get(f"{mode}.cv2_importance"))
    close(moe.squared_variation(load).reshape(1), get(f"{mode}.cv2_load"))


@pytest.mark.parametrize("tower", TOWERS)
def test_block(golden, learner: MoEAdapters, settings: dict, tower: str) -> None:
    recorded = golden("moe_block")
    index = int(recorded[f"{tower}.block_index"])
    twin = learner.twin
    block = (twin.image_blocks if tower == "image" else twin.text_blocks)[index]
    x = recorded[f"{tower}.input"]
    mask = None if tower == "image" else twin.text_tower.attn_mask[: x.shape[1], : x.shape[1]]
    with torch.no_grad():
        close(block(x, attn_mask=mask), recorded[f"{tower}.output_original"])
        route = routes(len(x), settings["block_file_task"])
        learner._context[tower] = (moe.Routes.of(route, route.device), torch.zeros_like(route))
        close(block(x, attn_mask=mask), recorded[f"{tower}.output_moe"])
        learner._context[tower] = None


@torch.no_grad()
def test_model(golden, learner: MoEAdapters, settings: dict) -> None:
    recorded = golden("moe_model")
    images, tokens = recorded["images"], recorded["token_ids"]
    scale = learner.twin.logit_scale
    seen: dict[str, list[Tensor]] = {"image": [], "text": []}
    for tower, branches in learner.towers.items():
        for branch in branches:

            def record(module, inputs, output, tower=tower):
                _, c, route = inputs
                gates, experts = module.gates(c, route)
                seen[tower].append(torch.zeros(len(c), len(module.experts)).scatter(1, experts, gates))

            branch.register_forward_hook(record)
    for task in range(-1, settings["tasks"]):
        for gates in seen.values():
            gates.clear()
        name = "original" if task < 0 else f"task{task}"
        image = learner.encode_images(images, routes(len(images), task))
        text = learner.encode_texts(tokens, routes(len(tokens), task))
        close(image, recorded[f"{name}.image_features"])
        close(text, recorded[f"{name}.text_features"])
        close(scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T, recorded[f"{name}.logits"])
        for tower, gates in seen.items():
            for block, gate in enumerate(gates):
                close(gate, recorded[f"{name}.{tower}_gates.block{block}"])


@torch.no_grad()
def test_one_task_id_per_sample(golden, learner: MoEAdapters, settings: dict) -> None:
    recorded = golden("moe_model")
    images = recorded["images"]
    route = torch.arange(len(images)) % (settings["tasks"] + 1) - 1
    together = learner.encode_images(images, route)
    for row, task in enumerate(route.tolist()):
        name = "original" if task < 0 else f"task{task}"
        close(together[row], recorded[f"{name}.image_features"][row])
    assert torch.equal(together[route < 0], learner.backbone.encode_image(images)[route < 0])


def train(learner: MoEAdapters, recorded: dict[str, Tensor], images: Tensor, golden, monkeypatch) -> list[dict]:
    """The golden loop: N + 1 AdamW updates with the recorded noise."""
    cfg = golden.settings["moe_step"]
    task = int(recorded["task_id"])
    learner.train().zero_grad()
    params = [p for p in learner.parameters() if p.requires_grad]
    adamw = cfg["adamw"]
    optimizer = torch.optim.AdamW(params, betas=adamw["betas"], eps=adamw["eps"], weight_decay=adamw["weight_decay"])
    tokens = recorded["class_token_ids"]
    steps = []
    for step in range(cfg["updates"]):
        queue = [
            recorded[f"noise.{tower}.block{i}"][step] for tower in TOWERS for i in range(len(learner.towers[tower]))
        ]
        monkeypatch.setattr(moe, "draw_noise", lambda logits, queue=queue: queue.pop(0))
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, cfg["base_lr"], cfg["warmup"], cfg["iterations"])
        image = learner.encode_images(images[step], routes(len(images[step]), task))
        text = learner.encode_texts(tokens, routes(len(tokens), task))
        logits = learner.twin.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        loss = F.cross_entropy(logits, recorded["labels"][step], label_smoothing=cfg["label_smoothing"])
        optimizer.zero_grad(set_to_none=True)
        learner._ask_who_rests()
        loss.backward()
        learner.after_backward()
        steps.append({"loss": loss.item(), "grads": {n: p.grad for n, p in learner.named_parameters()}})
        steps[-1]["hits"] = [branch.hits.clone() for branch in learner.branches]
        optimizer.step()
    return steps


def only_train(learner: MoEAdapters, task: int) -> None:
    for branch in learner.branches:
        branch.hits.zero_()
        for index, router in enumerate(branch.routers):
            router.requires_grad_(index == task)


@pytest.fixture(params=[True, False], ids=["host looks", "host does not look"])
def looking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to compute: with a look at the selected experts in every block, and without, as on an accelerator."""
    monkeypatch.setattr(moe, "looking_is_free", lambda tensor: request.param)
    return request.param


def test_steps(golden, learner: MoEAdapters, monkeypatch: pytest.MonkeyPatch, looking: bool) -> None:
    recorded = golden("moe_step")
    weights = golden("moe_weights")
    task = int(recorded["task_id"])
    only_train(learner, task)
    names = {id(parameter(learner, name)): name for name in weights}
    by_module_name = {n: names[id(p)] for n, p in learner.named_parameters()}
    steps = train(learner, recorded, recorded["images"], golden, monkeypatch)
    close(torch.tensor([s["loss"] for s in steps]), recorded["loss"])
    prefix = "step0.grad."
    grads = {by_module_name[n]: g for n, g in steps[0]["grads"].items() if g is not None}
    assert set(grads) == {name.removeprefix(prefix) for name in recorded if name.startswith(prefix)}
    for name, grad in grads.items():
        torch.testing.assert_close(grad, recorded[prefix + name], rtol=1e-4, atol=1e-6)
    for tower in TOWERS:
        for i, branch in enumerate(learner.towers[tower]):
            assert torch.equal(branch.hits, recorded[f"hits.final.{tower}.block{i}"])
    final = {name.removeprefix("final.") for name in recorded if name.startswith("final.")}
    off = total = 0
    for name, start in weights.items():
        value = parameter(learner, name).detach()
        if name in final:
            difference = (value - recorded[f"final.{name}"]).abs()
            off, total = off + int((difference > 1e-6).sum()), total + difference.numel()
            assert float(difference.max()) < 2e-4
        else:
            assert torch.equal(value, start), name
    assert off < 1e-3 * total
    for tower in TOWERS:
        for i, branch in enumerate(learner.towers[tower]):
            chosen = branch.freeze_most_hit(golden.settings["moe_step"]["experts_frozen_per_block"])
            assert torch.equal(chosen.sort().values, recorded[f"frozen.{tower}.block{i}"].sort().values)


def test_the_next_task_leaves_frozen_experts_alone(
    golden, learner: MoEAdapters, monkeypatch: pytest.MonkeyPatch, looking: bool
) -> None:
    first, recorded = golden("moe_step"), golden("moe_step_frozen")
    only_train(learner, int(first["task_id"]))
    train(learner, first, first["images"], golden, monkeypatch)
    learner.end_task()
    task = int(recorded["task_id"])
    only_train(learner, task)
    for tower in TOWERS:
        frozen = [(branch.frozen_by >= 0).long() for branch in learner.towers[tower]]
        assert torch.equal(torch.stack(frozen), recorded[f"{tower}.frozen_before"])
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    steps = train(learner, recorded, first["images"], golden, monkeypatch)
    close(torch.tensor([s["loss"] for s in steps]), recorded["loss"])
    with torch.no_grad():
        change = {name: float((p - before[name]).norm()) for name, p in learner.named_parameters()}
    kinds = ("down.weight", "down.bias", "up.weight", "up.bias")
    for tower in TOWERS:
        branches = learner.towers[tower]
        for i, branch in enumerate(branches):
            stem = f"towers.{tower}.{i}"
            experts = [[change[f"{stem}.experts.{e}.{k}"] for k in kinds] for e in range(len(branch.experts))]
            close(torch.tensor(experts), recorded[f"{tower}.expert_change_norm"][i])
            routers = [
                [change[f"{stem}.routers.{t}.{k}"] for k in ("gate", "noise")] for t in range(len(branch.routers))
            ]
            close(torch.tensor(routers), recorded[f"{tower}.router_change_norm"][i])
            for step, taken in enumerate(steps):
                grads = [[taken["grads"][f"{stem}.experts.{e}.{k}"] for k in kinds] for e in range(len(branch.experts))]
                norms = torch.tensor([[0.0 if g is None else float(g.norm()) for g in row] for row in grads])
                close(norms, recorded[f"{tower}.expert_grad_norm"][step, i])
            assert torch.equal(branch.hits, recorded[f"{tower}.hits"][i])
            chosen = branch.freeze_most_hit(golden.settings["moe_step"]["experts_frozen_per_block"])
            assert torch.equal(chosen.sort().values, recorded[f"frozen_new.{tower}.block{i}"].sort().values)
    clip = golden("clip_forward")
    learner.eval()
    with torch.no_grad():
        recorded_names = {name.split(".")[1] for name in recorded if name.startswith("after.")}
        assert "original" in recorded_names
        for name in recorded_names:
            t = -1 if name == "original" else int(name.removeprefix("task"))
            image = learner.encode_images(clip["images"], routes(len(clip["images"]), t))
            text = learner.encode_texts(clip["token_ids"], routes(len(clip["token_ids"]), t))
            close(image, recorded[f"after.{name}.image_features"])
            close(text, recorded[f"after.{name}.text_features"])


# -- laws ----------------------------------------------------------------------------------------------------------


def taught(clip: Backbone, steps: int = 4, tasks: int = 2, **settings) -> MoEAdapters:
    """A learner that took a few steps on random images of some tasks."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    method = MoEAdapters(clip, MoEAdaptersConfig(**settings))
    for index in range(tasks):
        teach(method, info(index), steps, generator)
    return method.eval()


def teach(method: MoEAdapters, task: TaskInfo, steps: int, generator: torch.Generator) -> None:
    method.begin_task(task)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    size = method.backbone.view.size
    for phase, count in enumerate(method.phases(steps)):
        if phase:
            method.begin_phase(phase)
        for _ in range(count):
            pixels = torch.randn(4, 3, size, size, generator=generator)
            labels = torch.randint(len(task.class_names), (4,), generator=generator)
            loss = method.train()(Batch(task, pixels, labels)).total
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            method.after_backward()
            optimizer.step()
    method.end_task()


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip))


@pytest.fixture(scope="module")
def siglip(tiny_siglip: Path) -> Backbone:
    return Backbone.load(str(tiny_siglip))


def pictures(clip: Backbone, count: int = 5) -> Tensor:
    size = clip.view.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("model", ["clip", "siglip"])
def test_a_fresh_model_equals_clip_exactly(request: pytest.FixtureRequest, model: str) -> None:
    backbone = request.getfixturevalue(model)
    method = MoEAdapters(backbone, MoEAdaptersConfig())
    method.begin_task(info(0))
    method.eval()
    pixels, tokens = pictures(backbone), method.training_tokens(info(0))
    assert torch.equal(method.encode_images(pixels, routes(len(pixels), 0)), backbone.encode_image(pixels))
    assert torch.equal(method.encode_texts(tokens, routes(len(tokens), 0)), backbone.encode_text(tokens))


@pytest.mark.parametrize("model", ["clip", "siglip"])
@pytest.mark.parametrize("token", ["first", "eot"])
def test_it_learns_on_both_kinds_of_towers(request: pytest.FixtureRequest, model: str, token: str) -> None:
    backbone = request.getfixturevalue(model)
    method = taught(backbone, text_router_token=token)
    pixels = pictures(backbone)
    with torch.no_grad():
        first, second, original = (method.embed(pixels, route) for route in (0, 1, -1))
    assert not torch.equal(first, second)
    assert torch.equal(original, F.normalize(backbone.encode_image(pixels), dim=-1))


def test_strict_mode_seals_a_finished_task(clip: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    method = taught(clip, tasks=1, strict=True)
    pixels = pictures(clip)
    with torch.no_grad():
        before = method.embed(pixels, 0), method.classifier(info(0), 0)
    for index in (1, 2):
        teach(method, info(index), 4, generator)
    method.eval()
    sealed = [method.sealed_state(index) for index in range(3)]
    again = MoEAdapters(clip, method.config)
    again.load_state(method.tasks, sealed, method.working_state())
    for learner in (method, again.eval()):
        with torch.no_grad():
            assert torch.equal(learner.embed(pixels, 0), before[0])
            assert torch.equal(learner.classifier(info(0), 0), before[1])
    assert "finished_tasks_constant" in method.promised()


def test_without_strict_mode_an_old_task_may_still_move(clip: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    method = taught(clip, tasks=1, experts=6)
    pixels = pictures(clip)
    with torch.no_grad():
        before = method.embed(pixels, 0)
    for index in (1, 2):
        teach(method, info(index), 8, generator)
    with torch.no_grad():
        after = method.eval().embed(pixels, 0)
    assert "finished_tasks_constant" not in method.promised()
    assert not torch.equal(before, after)


def test_experts_grow_and_old_routers_stay_blind_to_new_ones(clip: Backbone) -> None:
    method = taught(clip, tasks=3, new_experts=2)
    for branch in method.branches:
        assert len(branch.experts) == 6
        assert [router.gate.shape[1] for router in branch.routers] == [2, 4, 6]
        assert (branch.frozen_by[:2] == 0).all()


def test_when_no_expert_is_free_it_says_so(clip: Backbone) -> None:
    method = taught(clip, tasks=2, experts=4, steps=2)
    for branch in method.branches:
        branch.frozen_by.clamp_(min=0)
    with pytest.raises(InputError, match="experts=grow"):
        method.begin_task(info(2))


def test_without_a_look_the_answers_are_the_same(clip: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, route = pictures(clip, 6), torch.tensor([0, -1, 1, 1, 0, -1])
    learned = []
    for free in (True, False):
        monkeypatch.setattr(moe, "looking_is_free", lambda tensor, free=free: free)
        method = taught(clip, experts=6, strict=True, dropout=0.0)
        with torch.no_grad():
            learned.append((method.state_dict(), method.encode_images(pixels, route)))
    for name, value in learned[0][0].items():
        close(learned[1][0][name].float(), value.float(), 1e-4)
    close(learned[1][1], learned[0][1], 1e-4)
    assert torch.equal(learned[0][1][route < 0], learned[1][1][route < 0])


def test_a_task_that_brings_experts_begins_with_them(clip: Backbone) -> None:
    """The head start of new experts: at first almost no sample selects what other tasks made."""
    shares = []
    for lead in (0.0, 3.0):
        method = taught(clip, tasks=3, steps=1, lead=lead)
        method.begin_task(info(3))
        method.train()(Batch(info(3), pictures(clip, 64), torch.zeros(64, dtype=torch.int64)))
        hits = torch.stack([branch.hits for branch in method.towers["image"]]).float()
        shares.append(float(hits[:, -2:].sum() / hits.sum()))
    assert shares[0] < 0.5
    assert shares[1] > 0.9


@torch.no_grad()
def test_the_number_of_experts_does_not_change_the_cost(clip: Backbone) -> None:
    flops = []
    for experts in (22, 220):
        method = MoEAdapters(clip, MoEAdaptersConfig(experts=experts))
        method.begin_task(info(0))
        method.eval()
        for branch in method.branches:  # every sample goes its own way
            branch.routers[0].gate.normal_(generator=torch.Generator().manual_seed(0))
        pixels = pictures(clip, 3)
        with FlopCounterMode(display=False) as counter:
            method.encode_images(pixels, routes(3, 0))
        router = 2 * 2 * 3 * len(method.towers["image"]) * 64 * experts  # gate and noise matrix of each block
        flops.append(counter.get_total_flops() - router)
    assert flops[0] == flops[1]


def test_parameter_count_of_the_paper() -> None:
    with torch.device("meta"):
        model = open_clip.create_model("ViT-B-16", device="meta")
        backbone = Backbone(model, None, "ViT-B-16")
        method = MoEAdapters(backbone, MoEAdaptersConfig(experts=22))
        for branch in method.branches:
            for _ in range(11):
                branch.add_router()
    experts = sum(p.numel() for branch in method.branches for p in branch.experts.parameters())
    gates = sum(r.gate.numel() for branch in method.branches for r in branch.routers)
    noise = sum(r.noise.numel() for branch in method.branches for r in branch.routers)
    assert (experts, gates, noise) == (43_625_472, 3_717_120, 3_717_120)


def test_the_shared_router_of_the_class_incremental_variant(clip: Backbone) -> None:
    method = taught(clip, tasks=2, experts=2, shared_router=True, freeze=0, label_smoothing=0.0)
    assert all(len(branch.routers) == 1 for branch in method.branches)
    assert not any((branch.frozen_by >= 0).any() for branch in method.branches)
    pixels = pictures(clip)
    with torch.no_grad():
        assert torch.equal(method.embed(pixels, 0), method.embed(pixels, 1))
    assert not method.routed
    assert not method.promised(), "with one answer for all, classes that no task taught change too"
    unknown = replace(method.tasks[0], index=7, name="later")
    own, later, original = (
        method.classifier(task, route) for task, route in ((method.tasks[0], 0), (unknown, 0), (unknown, ORIGINAL))
    )
    assert torch.equal(own, later), "every class goes through the one text side"
    assert not torch.equal(later, original)
