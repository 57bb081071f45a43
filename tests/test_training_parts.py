"""The pieces of training: parameter groups, frozen layers and norms, schedules, mixing, losses, moving averages."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videozoo import registry
from videozoo.factory import _build
from videozoo.models.r2plus1d import full_block
from videozoo.models.resnet2d import ResNet2d, plain_block
from videozoo.models.resnet3d import ResNet3d, Stem, stage_kernels
from videozoo.names import natural_key
from videozoo.training.averaging import ema_model
from videozoo.training.config import TrainConfig
from videozoo.training.mixing import Mixer, clip_loss
from videozoo.training.normalization import freeze_norm_parameters, input_norms, precise_batch_norm, train_mode
from videozoo.training.parameters import (
    classifier_parameters,
    freeze_stages,
    make_optimizer,
    parameter_groups,
    scaled_lr,
    set_probing,
)
from videozoo.training.schedules import learning_rate_factor

ARCHITECTURES = sorted(registry.architectures(), key=natural_key)
STAGES = {  # stages before the classifier, the stem counted
    "tsn_r50_f8": 5, "tsm_r50_f8": 5, "tsm_nldot_r50_f8": 5, "tsm_mobilenetv2_f8": 5, "tin_r50_f8": 5,
    "tanet_r50_f8": 5, "c3d_16x1": 7, "i3d_r50_32x2": 5, "r2plus1d_r34_8x8": 5, "ircsn_r152_32x2": 5, "s3d_128x2": 5,
    "slowonly_r50_8x8": 5, "slowfast_r50_8x8": 5, "tpn_slowonly_r50_8x8": 6, "x3d_s_13x6": 6, "audioonly_r50_64x1": 5,
}  # fmt: skip


def on_meta(architecture):
    return _build(architecture, {})


def tiny(num_classes=4, drop_rate=0.0):
    """A 3-D ResNet-18 of eight channels."""
    torch.manual_seed(0)
    model = ResNet3d(
        stage_kernels(18, (3, 3, 3, 3)),
        make_block=full_block,
        expansion=1,
        stem=Stem((3, 7, 7)),
        base_width=8,
        num_classes=num_classes,
        drop_rate=drop_rate,
    )
    model.init_weights()
    return model


def real(architecture, **kwargs):
    torch.manual_seed(0)
    return registry.model_entrypoint(architecture)(num_classes=4, **kwargs)


def clips(count=4, frames=4, size=32, seed=0):
    return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


def names_of(model, group):
    known = {id(p): name for name, p in model.named_parameters()}
    return [known[id(p)] for p in group["params"]]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before, model):
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def step(model, optimizer, seed=0, **clip_args):
    logits = model(clips(seed=seed, **clip_args))
    F.cross_entropy(logits, torch.arange(len(logits)) % 4).backward()
    optimizer.step()
    optimizer.zero_grad()


# ---------------------------------------------------------------------------------------------------- groups


def test_every_parameter_of_every_architecture_is_in_exactly_one_group():
    for architecture in ARCHITECTURES:
        model = on_meta(architecture)
        learning = sorted(n for n, p in model.named_parameters() if p.requires_grad)
        all_settings = [{}, {"layer_decay": 0.9, "head_lr_scale": 10.0}]
        if classifier_parameters(model):  # TSM's groups are those of a recogniser
            all_settings.append({"groups": "tsm"})
        for settings in all_settings:
            groups = parameter_groups(model, 0.1, 1e-4, **settings)
            found = [name for group in groups for name in names_of(model, group)]
            assert sorted(found) == learning, (architecture, settings)
            assert len({(g["lr"], g["weight_decay"]) for g in groups}) == len(groups), (architecture, settings)
            assert all(g["lr"] == 0.1 * g["lr_scale"] for g in groups)


def test_groups_of_the_same_model_are_in_the_same_order():
    for settings in ({"layer_decay": 0.9}, {"groups": "tsm"}):
        one, other = (
            [names_of(model, group) for group in parameter_groups(model, 0.1, 1e-4, **settings)]
            for model in (on_meta("tsm_nldot_r50_f8"), on_meta("tsm_nldot_r50_f8"))
        )
        assert one == other and len(one) > 4


def test_plain_groups_are_one_where_nothing_differs():
    model = tiny()
    (group,) = parameter_groups(model, 0.1, 1e-4)
    assert (group["lr"], group["weight_decay"], group["lr_scale"]) == (0.1, 1e-4, 1.0)
    body, head = parameter_groups(model, 0.1, 1e-4, head_lr_scale=10)
    assert (body["lr"], body["name"]) == (0.1, "layers") and (head["lr"], head["name"]) == (1.0, "classifier")
    assert names_of(model, head) == ["fc.weight", "fc.bias"]


def test_each_layer_learns_slower_than_the_one_above_it():
    model = tiny()  # stem, 4 stages of 2 blocks, classifier
    groups = parameter_groups(model, 1.0, 0.0, layer_decay=0.5)
    assert [g["lr"] for g in groups] == [0.5**k for k in range(9, -1, -1)]
    assert names_of(model, groups[0]) == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert all(name.startswith("layer4.1.") for name in names_of(model, groups[-2]))
    assert names_of(model, groups[-1]) == ["fc.weight", "fc.bias"]


def test_both_pathways_of_slowfast_learn_at_the_rate_of_their_depth():
    model = on_meta("slowfast_r50_8x8")
    rates = {n: g["lr"] for g in parameter_groups(model, 1.0, 0.0, layer_decay=0.5) for n in names_of(model, g)}
    assert rates["slow.conv1.weight"] == rates["fast.conv1.weight"] == min(rates.values())
    assert rates["slow.layer3.4.conv1.weight"] == rates["fast.layer3.4.conv1.weight"]
    assert rates["fast.layer1.2.conv1.weight"] < rates["lateral2.weight"] < rates["slow.layer2.0.conv1.weight"]


def test_a_lateral_connection_and_its_norm_are_one_layer():
    model = on_meta("slowfast_r50_16x8")
    model.lateral_norm1 = nn.Sequential(nn.BatchNorm3d(16), nn.ReLU())
    rates = {n: g["lr"] for g in parameter_groups(model, 1.0, 0.0, layer_decay=0.5) for n in names_of(model, g)}
    assert rates["lateral1.weight"] == rates["lateral_norm1.0.weight"] == rates["lateral_norm1.0.bias"]


def test_the_auxiliary_classifier_learns_like_the_classifier():
    model = on_meta("tpn_slowonly_r50_8x8")
    rates = {n: g["lr"] for g in parameter_groups(model, 1.0, 0.0, head_lr_scale=5.0) for n in names_of(model, g)}
    assert {n for n, lr in rates.items() if lr == 5.0} == {"fc.weight", "fc.bias", "aux.fc.weight", "aux.fc.bias"}


def test_names_that_a_model_does_not_decay_are_not_decayed():
    model = tiny()
    model.no_weight_decay = lambda: {"conv1.weight"}
    decays = {n: g["weight_decay"] for g in parameter_groups(model, 0.1, 1e-4) for n in names_of(model, g)}
    assert {n for n, decay in decays.items() if decay == 0} == {"conv1.weight"}


def test_tsm_groups_have_the_published_numbers():
    model = on_meta("tsm_nldot_r50_f8")  # non-local blocks are the convolutions with bias
    groups = {g["name"]: g for g in parameter_groups(model, 0.01, 5e-4, groups="tsm")}
    rates = {name: (g["lr_scale"], g["weight_decay"], len(g["params"])) for name, g in groups.items()}
    assert rates == {
        "weights": (1.0, 5e-4, 53 + 5 * 4),  # ResNet-50 and five times theta, phi, g, out
        "norms without decay": (1.0, 0.0, 2 * (53 + 5)),
        "biases without decay": (2.0, 0.0, 5 * 3),
        "classifier": (5.0, 5e-4, 1),
        "classifier bias without decay": (10.0, 0.0, 1),
    }
    assert [g["lr"] for g in groups.values()] == pytest.approx([0.01, 0.01, 0.02, 0.05, 0.1])
    assert "conv1.weight" in names_of(model, groups["weights"])
    assert names_of(model, groups["classifier"]) == ["fc.weight"]


def test_settings_that_contradict_each_other_or_the_model_are_errors():
    with pytest.raises(ValueError, match="leave layer_decay and head_lr_scale at 1"):
        parameter_groups(tiny(), 0.1, 0.0, groups="tsm", layer_decay=0.9)
    with pytest.raises(ValueError, match="leave layer_decay and head_lr_scale at 1"):
        parameter_groups(tiny(), 0.1, 0.0, groups="tsm", head_lr_scale=5)
    with pytest.raises(ValueError, match="0.weight of Sequential belongs to a PReLU"):
        parameter_groups(nn.Sequential(nn.PReLU()), 0.1, 0.0, groups="tsm")
    with pytest.raises(ValueError, match="group_matcher"):
        parameter_groups(nn.Linear(2, 2), 0.1, 0.0, layer_decay=0.9)
    with pytest.raises(ValueError, match="no parameter of ResNet3d requires a gradient"):
        parameter_groups(tiny().requires_grad_(False), 0.1, 0.0)
    with pytest.raises(ValueError, match="nesterov"):
        make_optimizer(tiny(), TrainConfig(optimizer="adamw", nesterov=True), 0.1)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_optimizers_have_the_settings(kind):
    config = TrainConfig(optimizer=kind, momentum=0.8, weight_decay=0.01, head_lr_scale=3)
    made = make_optimizer(tiny(), config, 0.2)
    assert type(made).__name__.lower() == kind
    assert [(g["lr"], g["weight_decay"]) for g in made.param_groups] == [(0.2, 0.01), (pytest.approx(0.6), 0.01)]
    assert all(g["momentum"] == 0.8 if kind == "sgd" else g["betas"] == (0.8, 0.999) for g in made.param_groups)


def test_the_learning_rate_follows_the_number_of_clips():
    config = TrainConfig(lr=0.1, lr_batch=64)
    assert scaled_lr(config, 64) == 0.1 and scaled_lr(config, 16) == pytest.approx(0.025)
    assert scaled_lr(config.replace(scale_lr=False), 16) == 0.1
    with pytest.raises(ValueError, match="at least 1"):
        scaled_lr(config, 0)


# ---------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("architecture", STAGES)
def test_stages_freeze_from_the_input_on(architecture):
    model = on_meta(architecture)
    freeze_stages(model, 0)
    assert all(p.requires_grad for p in model.parameters())
    freeze_stages(model, 1)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {f"{conv}.weight" for conv in model.first_conv} <= frozen
    assert len(frozen) < len(dict(model.named_parameters())) / 3
    freeze_stages(model, STAGES[architecture])
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(classifier_parameters(model)) <= learning
    assert all(name.startswith(("fc.", "aux.")) for name in learning)
    for count in (STAGES[architecture] + 1, -1):
        with pytest.raises(ValueError, match=f"has {STAGES[architecture]} stages before its classifier"):
            freeze_stages(model, count)


def test_frozen_stages_do_not_move_in_either_pathway():
    model = real("slowfast_r50_4x16")
    freeze_stages(model, 2)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.1), 0.1)
    before = state(model)
    train_mode(model)
    for seed in range(2):
        step(model, optimizer, seed, count=2, frames=16)
    changed = moved(before, model)
    frozen = ("slow.conv1", "slow.bn1", "slow.layer1", "fast.conv1", "fast.bn1", "fast.layer1", "lateral1.")
    assert not {name for name in changed if name.startswith(frozen)}
    assert {"fc.weight", "slow.layer2.0.conv1.weight", "fast.layer2.0.bn1.running_mean", "lateral2.weight"} <= changed


def test_a_probe_moves_the_classifier_alone_and_ends_as_it_began():
    model = tiny()
    freeze_stages(model, 1)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    set_probing(model, True)
    set_probing(model, True)  # as after a resumed run
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.1), 0.1)
    before = state(model)
    train_mode(model)
    step(model, optimizer)
    assert moved(before, model) == {"fc.weight", "fc.bias"}
    set_probing(model, False)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    set_probing(model, False)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags


def test_a_probe_of_a_pyramid_trains_both_classifiers_and_needs_one():
    model = on_meta("tpn_slowonly_r50_8x8")
    set_probing(model, True)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learning == {"fc.weight", "fc.bias", "aux.fc.weight", "aux.fc.bias"}
    with pytest.raises(ValueError, match="num_classes of at least 1"):
        set_probing(tiny(num_classes=0), True)


# ---------------------------------------------------------------------------------------------------- norms


def running_norms(model):
    return [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]


def test_train_mode_keeps_what_it_is_asked_to_keep():
    model = tiny(drop_rate=0.5).eval()
    norms = len([m for m in model.modules() if isinstance(m, nn.BatchNorm3d)])
    train_mode(model)
    assert model.training and model.head_drop.training and len(running_norms(model)) == norms
    train_mode(model, "statistics")
    assert model.head_drop.training and not running_norms(model)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="call freeze_norm_parameters"):
        train_mode(model, "partial")
    with pytest.raises(ValueError, match="freeze_bn='frozen' is unknown"):
        train_mode(model, "frozen")


@pytest.mark.parametrize("architecture, expected", [
    ("tsn_r50_f8", ["bn1"]), ("tanet_r50_f8", ["bn1"]), ("tsm_mobilenetv2_f8", ["features.0.1"]), ("c3d_16x1", []),
    ("r2plus1d_r34_8x8", ["conv1.bn"]), ("slowfast_r50_8x8", ["slow.bn1", "fast.bn1"]), ("x3d_s_13x6", ["bn1"]),
    ("tpn_slowonly_r50_8x8", ["trunk.bn1"]), ("audioonly_r50_64x1", ["conv1.time.1", "conv1.frequency.1"]),
])  # fmt: skip
def test_partial_freezing_leaves_the_norms_of_the_input(architecture, expected):
    model = on_meta(architecture)
    assert input_norms(model) == expected
    freeze_norm_parameters(model, "partial")
    train_mode(model, "partial")
    assert running_norms(model) == expected
    kept = {f"{name}.{kind}" for name in expected for kind in ("weight", "bias")}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert frozen == {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")} - kept


@pytest.mark.parametrize("mode, statistics_move, parameters_move", [
    ("none", {"bn1", "layer4.1.bn2"}, {"bn1", "layer4.1.bn2"}),
    ("statistics", set(), {"bn1", "layer4.1.bn2"}),
    ("partial", {"bn1"}, {"bn1"}),
    ("all", set(), set()),
])  # fmt: skip
def test_what_a_step_does_to_norms(mode, statistics_move, parameters_move):
    model = tiny()
    freeze_norm_parameters(model, mode)
    optimizer = make_optimizer(model, TrainConfig(), 0.1)
    before = state(model)
    train_mode(model, mode)
    step(model, optimizer)
    changed = moved(before, model)
    assert "conv1.weight" in changed
    assert {n for n in ("bn1", "layer4.1.bn2") if f"{n}.running_mean" in changed} == statistics_move
    assert {n for n in ("bn1", "layer4.1.bn2") if f"{n}.bias" in changed} == parameters_move
    all_means = {n.removesuffix(".running_mean") for n in changed if n.endswith(".running_mean")}
    assert all_means == statistics_move or mode == "none"


def test_precise_statistics_are_those_of_all_values():
    model = tiny(drop_rate=0.9)
    batches = [3 * clips(count=n, seed=n) + n for n in (2, 3, 5)]
    seen = {"bn1": [], "layer2.0.bn1": []}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda m, args, kept=kept: kept.append(args[0].double()))
        for name, kept in seen.items()
    ]
    before = state(model)
    train_mode(model)
    drawn = iter([*batches, clips()])
    assert precise_batch_norm(model, drawn, 3) == 3
    assert len(list(drawn)) == 1, "a batch too many was drawn"
    for hook in hooks:
        hook.remove()
    for name, inputs in seen.items():
        values = torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1)  # (C, values)
        norm = model.get_submodule(name)
        assert torch.allclose(norm.running_mean.double(), values.mean(1), rtol=1e-5, atol=1e-6)
        assert torch.allclose(norm.running_var.double(), values.var(1), rtol=1e-5)
        assert norm.momentum == 0.1
    assert model.head_drop.training and len(running_norms(model)) == 20
    assert {n.rpartition(".")[2] for n in moved(before, model)} == {
        "running_mean", "running_var", "num_batches_tracked"
    }  # fmt: skip


def test_precise_statistics_are_taken_without_dropout():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm3d(3))
    train_mode(model)
    precise_batch_norm(model, [clips()], 1)
    assert torch.allclose(model[1].running_var, clips().var((0, 2, 3, 4)), rtol=1e-5)
    assert model[0].training


def test_precise_statistics_leave_frozen_norms_alone():
    model = tiny()
    freeze_stages(model, 2)
    train_mode(model)
    before = state(model)
    precise_batch_norm(model, [clips()], 1)
    changed = moved(before, model)
    assert not [n for n in changed if n.startswith(("bn1", "layer1"))] and "layer2.0.bn1.running_var" in changed
    assert not model.bn1.training and model.layer2[0].bn1.training
    train_mode(model, "statistics")
    before = state(model)
    drawn = iter([clips()])
    assert precise_batch_norm(model, drawn, 1) == 0 and len(list(drawn)) == 1
    assert not moved(before, model)
    train_mode(model)
    with pytest.raises(ValueError, match="needs at least one batch"):
        precise_batch_norm(model, [], 5)
    with pytest.raises(ValueError, match="call train_mode"):
        precise_batch_norm(model.eval(), [clips()], 1)


def _share_of_precise_statistics(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = tiny()
    train_mode(model)
    precise_batch_norm(model, [clips(count=2 + 2 * rank, seed=rank)], 1)
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_precise_statistics_of_two_processes_are_those_of_all_clips(tmp_path):
    torch.multiprocessing.spawn(_share_of_precise_statistics, (str(tmp_path),), nprocs=2)
    alone = tiny()
    train_mode(alone)
    precise_batch_norm(alone, [clips(count=2 + 2 * rank, seed=rank) for rank in range(2)], 2)
    for rank in range(2):
        saved = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert torch.allclose(saved[name], value, rtol=1e-5, atol=1e-6), name


# ---------------------------------------------------------------------------------------------------- schedules


def factors(config, steps_per_epoch, *steps):
    return [learning_rate_factor(step, steps_per_epoch, config) for step in steps]


def test_cosine_falls_with_every_step():
    config = TrainConfig(epochs=4)
    assert factors(config, 10, 0, 10, 20, 40, 99) == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0, 0])
    assert factors(config.replace(min_lr_ratio=0.5), 10, 0, 20, 40) == pytest.approx([1, 0.75, 0.5])
    values = factors(config, 10, *range(40))
    assert all(a > b for a, b in zip(values, values[1:], strict=False))


def test_steps_come_when_their_epochs_are_over():
    config = TrainConfig(epochs=100, schedule="step", milestones=(40, 80))
    assert factors(config, 7, 0, 279, 280, 559, 560, 699) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert factors(config.replace(gamma=0.5), 7, 280) == [0.5]
    assert factors(config.replace(schedule="constant"), 7, 0, 699) == [1, 1]


def test_warm_up_is_a_line_over_part_of_an_epoch_or_several():
    config = TrainConfig(epochs=10, schedule="constant", warmup_epochs=2.5, warmup_ratio=0.1)
    assert factors(config, 10, 0, 5, 24, 25, 99) == pytest.approx([0.1, 0.28, 0.964, 1, 1])
    cosine = config.replace(schedule="cosine")
    assert factors(cosine, 10, 5) == pytest.approx([0.28 * (1 + math.cos(math.pi * 5 / 100)) / 2])
    with pytest.raises(ValueError, match="steps_per_epoch=0"):
        learning_rate_factor(0, 0, config)


def test_the_factor_drives_every_group_of_an_optimizer():
    config = TrainConfig(epochs=2, head_lr_scale=10.0)
    optimizer = make_optimizer(tiny(), config, 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, 4, config))
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 0.5])


# ---------------------------------------------------------------------------------------------------- mixing


def constant_clips(count):
    """Clip i is filled with i."""
    return torch.arange(float(count)).view(-1, 1, 1, 1, 1).expand(-1, 3, 4, 12, 20).contiguous()


def test_mixup_gives_pixels_and_targets_the_same_shares():
    mixer = Mixer(TrainConfig(mixup=0.8), 6)
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    shares = set()
    for seed in range(8):
        mixed, targets = mixer(constant_clips(6), labels, np.random.default_rng(seed))
        assert torch.allclose(targets.sum(1), torch.ones(6)) and targets.dtype == torch.float32
        value = targets @ torch.arange(6.0)  # clip i holds i, so its value is the mean label
        assert torch.allclose(mixed, value.view(-1, 1, 1, 1, 1).expand_as(mixed), atol=1e-5)
        shares.add(round(targets.max().item(), 3))
    assert len(shares) > 4


def test_cutmix_takes_one_box_of_all_frames_and_its_area_as_share():
    mixer = Mixer(TrainConfig(cutmix=1.0), 6)
    areas = []
    for seed in range(12):
        mixed, targets = mixer(constant_clips(6), torch.arange(6), np.random.default_rng(seed))
        for i, clip in enumerate(mixed):
            assert torch.equal(clip, clip[:1, :1].expand_as(clip)), "the box is not the same in all frames"
            own = clip[0, 0] == i
            assert own.float().mean().item() == pytest.approx(targets[i, i].item(), abs=1e-6)
            rows, columns = (~own).any(1).nonzero().flatten(), (~own).any(0).nonzero().flatten()
            assert (~own).sum() == len(rows) * len(columns), "what is cut is not a box"
            areas.append(1 - own.float().mean().item())
        assert torch.allclose(targets.sum(1), torch.ones(6))
    assert 0.1 < np.mean(areas) < 0.7 and len(set(areas)) > 6


def test_mixing_draws_from_its_generator_alone():
    mixer = Mixer(TrainConfig(mixup=0.8, cutmix=1.0), 4)
    first = mixer(clips(), torch.arange(4), np.random.default_rng(3))
    torch.manual_seed(99)
    again = mixer(clips(), torch.arange(4), np.random.default_rng(3))
    other = mixer(clips(), torch.arange(4), np.random.default_rng(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_both_kinds_are_drawn_and_some_batches_stay():
    mixer = Mixer(TrainConfig(mixup=0.8, cutmix=1.0, mix_prob=0.5), 6)
    rng, kinds = np.random.default_rng(0), {"none": 0, "mixup": 0, "cutmix": 0}
    for _ in range(200):
        mixed, targets = mixer(constant_clips(6), torch.arange(6), rng)
        if torch.equal(targets, torch.eye(6)) and torch.equal(mixed, constant_clips(6)):
            kinds["none"] += 1
        else:
            kinds["cutmix" if torch.equal(mixed, mixed.round()) else "mixup"] += 1
    assert 75 < kinds["none"] < 125 and min(kinds["mixup"], kinds["cutmix"]) > 25


@pytest.mark.parametrize("config", [TrainConfig(mixup=1.0), TrainConfig(cutmix=1.0), TrainConfig()], ids=list("mc-"))
def test_a_batch_of_one_and_a_mixer_without_kinds_change_nothing(config):
    for seed in range(4):
        mixed, targets = Mixer(config, 3)(clips(1), torch.tensor([2]), np.random.default_rng(seed))
        assert torch.equal(mixed, clips(1)) and targets.tolist() == [[0, 0, 1]]


def test_multi_label_targets_and_spectrograms_are_mixed_too():
    mixer = Mixer(TrainConfig(mixup=1.0), 3)
    targets = torch.tensor([[1, 1, 0], [0, 1, 1]])
    spectrograms = torch.stack((torch.zeros(1, 8, 5), torch.ones(1, 8, 5)))
    mixed, soft = mixer(spectrograms, targets, np.random.default_rng(0))
    share = 1 - mixed[0, 0, 0, 0]
    assert torch.allclose(soft, torch.stack([torch.stack((share, torch.ones(()), 1 - share)),
                                             torch.stack((1 - share, torch.ones(()), share))]))  # fmt: skip
    with pytest.raises(ValueError, match="normalise them first"):
        mixer(spectrograms.byte(), targets, np.random.default_rng(0))


# ---------------------------------------------------------------------------------------------------- loss


def test_cross_entropy_with_smoothing_and_weight():
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 1])
    log = logits.double().log_softmax(1)
    plain = -log[range(5), labels].mean()
    smooth = 0.9 * plain - 0.1 * log.mean()
    assert clip_loss(logits, labels, TrainConfig()).item() == pytest.approx(plain.item(), rel=1e-5)
    config = TrainConfig(label_smoothing=0.1, loss_weight=3.0)
    for targets in (labels, F.one_hot(labels, 4), F.one_hot(labels, 4).float()):
        assert clip_loss(logits, targets, config).item() == pytest.approx(3 * smooth.item(), rel=1e-5)


def test_multi_label_loss_is_the_mean_over_clips_and_classes():
    logits, targets = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)[[0, 1, 2, 3, 1]]
    p = logits.double().sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    config = TrainConfig(loss_weight=160.0)
    assert clip_loss(logits, targets.long(), config, True).item() == pytest.approx(160 * expected.item(), rel=1e-5)
    smooth = clip_loss(logits, targets, TrainConfig(label_smoothing=0.2), True)
    softened = F.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    assert smooth.item() == pytest.approx(softened.item(), rel=1e-5)
    with pytest.raises(ValueError, match="shares of all classes"):
        clip_loss(logits, torch.tensor([0, 1, 2, 3, 1]), config, multi_label=True)
    with pytest.raises(ValueError, match="or one class number"):
        clip_loss(logits, torch.zeros(3, dtype=torch.long), config)


def test_the_loss_is_float32_whatever_the_logits_are():
    layer, x, labels = nn.Linear(8, 4), torch.randn(5, 8), torch.arange(5) % 4
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(x)
        inside = clip_loss(logits, labels, TrainConfig())
    outside = clip_loss(logits, labels, TrainConfig())
    assert logits.dtype == torch.bfloat16 and inside.dtype == outside.dtype == torch.float32
    assert inside.item() == outside.item() == F.cross_entropy(logits.float(), labels).item()
    assert clip_loss(logits, F.one_hot(labels, 4), TrainConfig(), multi_label=True).dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- averages


def test_a_moving_average_warms_up_and_averages_statistics():
    model = ResNet2d(18, plain_block(18), num_classes=2)
    average = ema_model(model, 0.2)
    expected = 0.0
    for value, kept in ((1.0, 0.0), (5.0, 2 / 11), (2.0, 0.2), (3.0, 0.2)):  # 3/12 and 4/13 are above the decay
        model.fc.bias.data.fill_(value)
        model.bn1.running_mean.fill_(10 * value)
        model.bn1.num_batches_tracked.fill_(int(value))
        average.update_parameters(model)
        expected = kept * expected + (1 - kept) * value
        assert average.module.fc.bias.tolist() == pytest.approx([expected] * 2)
        assert average.module.bn1.running_mean[0].item() == pytest.approx(10 * expected)
        assert average.module.bn1.num_batches_tracked.item() == int(value)
    assert not average.module.training and not any(p.requires_grad for p in average.parameters())
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_a_saved_moving_average_goes_on():
    model = tiny()
    average = ema_model(model, 0.9)
    for value in (1.0, 2.0):
        model.fc.bias.data.fill_(value)
        average.update_parameters(model)
    resumed = ema_model(tiny(), 0.9)
    resumed.load_state_dict(copy.deepcopy(average.state_dict()))
    model.fc.bias.data.fill_(7.0)
    for one in (average, resumed):
        one.update_parameters(model)
    assert torch.equal(average.module.fc.bias, resumed.module.fc.bias)
    with pytest.raises(ValueError, match="below 1"):
        ema_model(model, 1.0)
