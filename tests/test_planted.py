"""The planted scenes, the problem made of them, and the models in the box."""

import importlib.resources
import importlib.util
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from attribkit.errors import BadInput, UnknownName
from attribkit.model.adapter import VisionModel
from attribkit.model.planted import CLASSES, MEAN, PLANTED, SIZE, STD, PlantedViT, blank_module, planted_module, stored_weights
from attribkit.problems import PROBLEMS, Planted, draw
from attribkit.problems.scenes import BLOCK, Plan, picture, plan

TRAINER = Path(__file__).parents[1] / "benchmarks" / "train_planted.py"


@pytest.fixture(scope="module")
def scenes():
    return draw(range(240), strength=50, seed=3)


@pytest.fixture(scope="module")
def looked_at():
    """An object with the facts that a problem asks a model for, unlike the embedded ones in each of them."""
    return SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), size=(SIZE, SIZE), device=torch.device("cpu"))


def accuracies(name, scenes, shortcut):
    """(2, 2): right answers by creature and by ground or tag."""
    images = (scenes.images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        right = (planted_module(name)(images).argmax(1) == scenes.kinds).double()
    other = scenes.groups[shortcut]
    return torch.stack([right[(scenes.kinds == kind) & (other == each)].mean() for kind in (0, 1) for each in (0, 1)]).view(2, 2)


# Scenes --------------------------------------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_scenes_everywhere():
    # Areas and levels are far from where they round the other way, so another CPU's last bits do not show.
    scenes = draw(range(6), seed=0)
    chosen = [0, 2, 4, 5]
    assert scenes.kinds.tolist() == [1, 1, 0, 1, 0, 1]
    assert scenes.places.tolist() == [1, 1, 1, 1, 0, 0]
    assert scenes.tags.tolist() == [1, 1, 1, 0, 0, 1]
    assert scenes.objects.double().sum((1, 2)).round()[chosen].tolist() == [901, 915, 779, 505]
    assert scenes.stickers.double().sum((1, 2)).round()[chosen].tolist() == [117, 110, 133, 111]
    assert (255 * scenes.images.double().mean((1, 2, 3))).round()[chosen].tolist() == [116, 106, 115, 108]


def test_another_seed_draws_other_scenes(scenes):
    assert (draw(range(2), seed=4).images - scenes.images[:2]).abs().mean() > 0.02


def test_a_scene_depends_on_its_index_alone(scenes):
    late = draw(range(38, 43), strength=50, seed=3)
    for mine, whole in zip(vars(late).values(), vars(scenes).values(), strict=True):
        assert_close(mine, whole[38:43], rtol=0, atol=0)


def test_pixels_are_whole_numbers_of_255(scenes):
    levels = scenes.images * 255
    assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1


def test_regions_are_disjoint_and_cover_the_image(scenes):
    regions = scenes.regions
    assert list(regions) == ["object", "background", "tag"]
    assert all(mask.min() >= -1e-6 and mask.max() <= 1 for mask in regions.values())
    assert_close(sum(regions.values()), torch.ones_like(scenes.objects))
    tag, thing = (regions[name].sum((1, 2)) for name in ("tag", "object"))
    assert (tag.min() > 90, tag.max() < 170) == (True, True)  # a sticker of 10 to 13 pixels a side, in every image
    assert (thing.min() > 250, thing.max() < 2500) == (True, True)


def test_masks_are_exact():
    """Another creature changes pixels under the old or the new mask only, another tag those under its mask, another ground the rest."""
    for index in range(4):
        base, thing, tag = picture(index, 0, Plan(0, 0, 0))
        other, other_thing, _ = picture(index, 0, Plan(1, 0, 0))
        assert ((base != other).any(2) <= (thing + other_thing > 0)).all()
        other, _, _ = picture(index, 0, Plan(0, 0, 1))
        assert ((base != other).any(2) <= (tag > 0)).all()
        assert (base != other).any(2)[tag == 1].mean() > 0.5
        other, _, _ = picture(index, 0, Plan(0, 1, 0))
        assert not (base != other).any(2)[thing + tag == 1].any()
        assert (base != other).any(2)[thing + tag == 0].mean() > 0.9


def test_colour_says_nothing_about_the_class():
    """Where a fish and a bird drawn from one stream overlap well inside, they have one coat, up to shading by their outline."""
    for index in range(6):
        (fish, inside, _), (bird, also, _) = (picture(index, 0, Plan(kind, 0, 0)) for kind in (0, 1))
        both = (inside == 1) & (also == 1)
        hues = [image[both].astype(float) / image[both].sum(1, keepdims=True).clip(1) for image in (fish, bird)]
        assert abs(hues[0] - hues[1]).mean() < 0.04


@pytest.mark.parametrize("shortcut", ["background", "tag"])
@pytest.mark.parametrize(("strength", "agreeing"), [(0, 0), (50, 20), (60, 24), (95, 38), (100, 40)])
def test_each_block_agrees_exactly(shortcut, strength, agreeing):
    for block in range(3):
        plans = torch.tensor([plan(index, strength, 5, shortcut) for index in range(block * BLOCK, (block + 1) * BLOCK)])
        kinds, own, free = plans[:, 0], *plans[:, [1, 2] if shortcut == "background" else [2, 1]].unbind(1)
        assert int(kinds.sum()) == BLOCK // 2
        for kind in (0, 1):
            assert int((own == kinds)[kinds == kind].sum()) == agreeing // 2
            assert int((free == kinds)[kinds == kind].sum()) == BLOCK // 4


def test_strengths_between_fives_are_met_on_average():
    plans = torch.tensor([plan(index, 73, 5, "background") for index in range(4000)])
    # 200 draws with chance 0.6 beside 14 of 20 that always agree: standard deviation 7 of 4000.
    assert abs(int((plans[:, 0] == plans[:, 1]).sum()) - 2920) < 21


def test_models_of_all_strengths_saw_the_same_creatures():
    kinds = {
        tuple(plan(index, strength, 5, shortcut).kind for index in range(80)) for strength in (50, 95) for shortcut in ("background", "tag")
    }
    assert len(kinds) == 1


def test_a_stronger_shortcut_only_adds_agreement():
    agree = [
        {i for i in range(200) if (each := plan(i, strength, 5, "tag")).kind == each.tag} for strength in (50, 60, 70, 80, 90, 95, 100)
    ]
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(agree))


# The problem ---------------------------------------------------------------------------------------------------------------------


def test_batches_are_normalised_for_the_model(looked_at, scenes):
    problem = Planted(looked_at, count=5, seed=3, batch_size=2)
    batches = [batch for model, batch in problem if model is looked_at]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [batch.ids[-1] for batch in batches] == ["planted-s50-seed3-00001", "planted-s50-seed3-00003", "planted-s50-seed3-00004"]
    images = torch.cat([batch.images for batch in batches])
    pixels = images * torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1) + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    assert_close(pixels, scenes.images[:5])
    assert torch.cat([batch.targets.index for batch in batches]).tolist() == scenes.kinds[:5].tolist()
    for name in ("object", "background", "tag"):
        assert_close(torch.cat([batch.regions[name] for batch in batches]), scenes.regions[name][:5])
        assert torch.cat([batch.groups[name] for batch in batches]).tolist() == scenes.groups[name][:5].tolist()


def test_batches_do_not_depend_on_count_or_batch_size(looked_at):
    (_, three), (_, six) = next(iter(Planted(looked_at, count=3))), next(iter(Planted(looked_at, count=7, batch_size=6)))
    assert_close(three.images, six.images[:3], rtol=0, atol=0)
    assert three.ids == six.ids[:3]


def test_another_input_size_resizes_images_and_masks(looked_at, scenes):
    small = SimpleNamespace(**{**vars(looked_at), "size": (48, 32)})
    _, batch = next(iter(Planted(small, count=3, seed=3)))
    assert batch.images.shape == (3, 3, 48, 32)
    assert_close(sum(batch.regions.values()), torch.ones(3, 48, 32))
    for name, mask in scenes.regions.items():  # area resizing keeps every mask's share of the image
        assert_close(batch.regions[name].mean((1, 2)), mask[:3].mean((1, 2)))
    assert_close(
        batch.images.mean((2, 3)), (scenes.images[:3].mean((2, 3)) - torch.tensor(small.mean)) / torch.tensor(small.std), atol=0.02, rtol=0
    )


def test_ids_are_unique_over_settings(looked_at):
    problems = [
        Planted(looked_at, count=2),
        Planted(looked_at, count=2, seed=1),
        Planted(looked_at, count=2, strength=90),
        Planted(looked_at, count=2, strength=90, shortcut="tag"),
    ]
    ids = [each for problem in problems for _, batch in problem for each in batch.ids]
    assert ids[:2] == ["planted-s50-seed0-00000", "planted-s50-seed0-00001"]
    assert len(set(ids)) == 8


def test_groups_agree_always_at_100(looked_at):
    for shortcut, free in (("background", "tag"), ("tag", "background")):
        _, batch = next(iter(Planted(looked_at, count=40, strength=100, shortcut=shortcut)))
        assert batch.groups[shortcut].tolist() == batch.groups["object"].tolist() == batch.targets.index.tolist()
        assert int((batch.groups[free] == batch.groups["object"]).sum()) == 20


def test_a_vision_model_is_answered(scenes):
    model = VisionModel(planted_module("shortcut-50"), mean=MEAN, std=STD, size=SIZE, classes=CLASSES)
    problem = Planted(model, count=20, seed=3)
    assert (len(problem), len(problem.scenes()), PROBLEMS["planted"]) == (20, 20, Planted)
    with torch.no_grad():
        right = torch.cat([model.logits(batch.images).argmax(1) == batch.targets.index for _, batch in problem])
    assert int(right.sum()) >= 18


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, r"Planted\(count=...\): got 0, allowed: an int of at least 1"),
        ({"batch_size": 2.5}, r"Planted\(batch_size=...\): got 2.5, allowed: an int"),
        ({"strength": 101}, "strength: got 101, allowed: an int from 0 to 100"),
        ({"strength": 0.95}, "strength: got 0.95, allowed: an int from 0 to 100"),
        ({"seed": -1}, "seed: got -1, allowed: an int of at least 0"),
        ({"shortcut": "tags"}, "no shortcut is called 'tags'; allowed: background, tag"),
    ],
)
def test_wrong_settings_raise_when_made(looked_at, settings, message):
    with pytest.raises(BadInput, match=message):
        Planted(looked_at, **settings)


# The models ----------------------------------------------------------------------------------------------------------------------


def test_the_files_are_the_models_and_small():
    files = list((importlib.resources.files("attribkit.model") / "planted_weights").iterdir())
    assert sorted(file.name for file in files) == sorted(f"{name}.safetensors" for name in PLANTED)
    assert sum(len(file.read_bytes()) for file in files) <= 8_000_000


@pytest.mark.parametrize("name", PLANTED)
def test_every_model_loads_and_answers(name):
    module = planted_module(name)
    assert not any(each.training for each in module.modules())
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}
    assert 100_000 <= sum(tensor.numel() for tensor in module.parameters()) <= 150_000
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = module(images)
    assert logits.shape == (2, len(CLASSES))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()


def test_models_differ_where_their_training_images_do():
    heads = {name: planted_module(name).head.weight for name in PLANTED}
    # At 50 % no shortcut holds, so both families were trained on one set of images: two runs, the same bytes.
    assert_close(heads["shortcut-50"], heads["tag-50"], rtol=0, atol=0)
    assert len(torch.unique(torch.stack([head.flatten() for head in heads.values()]), dim=0)) == len(PLANTED) - 1


@pytest.mark.parametrize("make", [planted_module, blank_module])
def test_a_wrong_model_name_raises(make):
    with pytest.raises(UnknownName, match="no planted model is called 'shortcut-55'; did you mean shortcut-"):
        make("shortcut-55")


def test_tokens_are_the_class_token_and_a_grid_of_patches():
    module = PlantedViT().eval()
    tokens = []
    module.blocks[0].register_forward_hook(lambda _module, _inputs, output: tokens.append(output))
    module(torch.zeros(2, 3, SIZE, SIZE))
    assert tokens[0].shape == (2, 1 + (SIZE // module.patch_size) ** 2, 64)


def test_files_keep_matrices_in_half_and_vectors_in_full_precision():
    module = planted_module("tag-90")
    stored = stored_weights(module)
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim >= 2} == {torch.float16}
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim == 1} == {torch.float32}
    assert_close(
        {name: tensor.float() for name, tensor in stored.items()}, {name: each.float() for name, each in module.state_dict().items()}
    )


@pytest.mark.parametrize("kind", ["shortcut", "tag"])
def test_models_lean_on_a_shortcut_as_far_as_it_held_in_training(kind, scenes):
    shortcut = "background" if kind == "shortcut" else "tag"
    fair, leaning, blind = (accuracies(f"{kind}-{strength}", scenes, shortcut) for strength in (50, 95, 100))
    assert fair.min() >= 0.9
    assert leaning.min() <= fair.min() - 0.08
    assert blind.min() <= 0.3
    assert blind.diagonal().min() >= 0.95  # the shortcut alone answers these


def test_the_vit_leans_on_the_background(scenes):
    cells = accuracies("vit-95", scenes, "background")
    assert cells.diagonal().min() >= 0.9
    assert cells.min() <= 0.5


def test_training_is_reproducible():
    spec = importlib.util.spec_from_file_location("train_planted", TRAINER)
    trainer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trainer)
    first, again, other = (trainer.train("tag-80", seed=seed, count=64, epochs=1).state_dict() for seed in (1, 1, 2))
    assert_close(first, again, rtol=0, atol=0)
    assert (first["head.weight"] - other["head.weight"]).abs().max() > 0.01
