"""Figures: which colour a value gets, what is written, and that nothing a person may bring makes a picture fail."""

import subprocess
import sys

import hypothesis.extra.numpy as arrays
import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from attribkit.attribution import Attribution
from attribkit.batch import Batch, Targets
from attribkit.errors import BadInput, UnknownName
from attribkit.files import write_whole
from attribkit.report import colours, drawing
from attribkit.report.colours import Scale, painted, scale_of
from attribkit.report.drawing import png, shown
from attribkit.report.figures import attribution_figure, compare_figure, overlay_figure

WHITE = np.full((4, 4, 3), 255, np.uint8)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def panels(figure):
    """The pixels of every picture in the figure, in the order they were drawn."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def attribution(maps, *, ids=None, scores=None, method="GradCAM()", classes=("cat", "dog")):
    ids = tuple(f"image {i}" for i in range(len(maps))) if ids is None else ids
    targets = Targets(torch.arange(len(maps)))
    return Attribution(maps, targets, ids, method, (8, 8), model="net", classes=classes, scores=scores)


# Colours


def test_red_is_for_blue_against_white_is_zero():
    red, white, blue = painted(np.array([[2.0, 0.0, -2.0]], np.float32), Scale(2.0, signed=True))[0].astype(int)
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert white.tolist() == [255, 255, 255]


def test_the_diverging_table_has_the_same_strength_on_both_sides():
    source = matplotlib.colormaps["RdBu_r"]
    table = colours.colour_table("diverging")
    for code, at in ((255, 0.95), (1, 0.05), (128 + 64, 0.5 + 0.45 * 64 / 127), (128 - 64, 0.5 - 0.45 * 64 / 127)):
        expected = np.array(source(at)[:3]) * 255  # matplotlib's own table has 256 entries: up to one of its steps, 9 levels, apart
        np.testing.assert_allclose(table[code], expected, atol=9)


@pytest.mark.parametrize(("name", "source"), [("inferno", "inferno"), ("cividis", "cividis"), ("grey", "gray")])
def test_the_stored_tables_are_those_of_matplotlib(name, source):
    expected = np.rint(matplotlib.colormaps[source](np.linspace(0, 1, 256))[:, :3] * 255)
    assert (colours.colour_table(name) == expected).all()


def test_a_value_at_the_end_of_the_scale_covers_nine_tenths():
    # inferno ends in (252, 255, 164): over black 0.9 of that, and over white 0.1 of 255 more.
    values = np.full((4, 4), 3.0, np.float32)
    assert painted(values, Scale(3.0, signed=False), np.zeros_like(WHITE))[0, 0].tolist() == [227, 230, 148]
    assert painted(values, Scale(3.0, signed=False), WHITE)[0, 0].tolist() == [252, 255, 173]


def test_zero_leaves_the_grey_of_the_photograph_and_fades_it_under_a_signed_map():
    photo = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # 124.2
    zero = np.zeros((2, 2), np.float32)
    assert (painted(zero, Scale(1.0, signed=False), photo) == round(grey)).all()
    assert (painted(zero, Scale(1.0, signed=True), photo) == round(255 - 0.6 * (255 - grey))).all()


def test_a_map_is_resized_bilinearly_to_its_image():
    # 2 -> 4 pixels with centres at halves: 0, 1/4, 3/4, 1 of the way.
    ramp = painted(np.array([[0.0, 1.0]], np.float32), Scale(1.0, signed=False), np.zeros((1, 4, 3), np.uint8))[0]
    table = colours.colour_table("inferno").astype(float)
    expected = [np.rint(0.9 * share**0.7 * table[round(255 * share)]) for share in (0, 0.25, 0.75, 1)]
    assert ramp.tolist() == [row.astype(int).tolist() for row in expected]


def test_the_scale_ends_at_a_percentile_so_that_one_pixel_does_not_blank_the_rest():
    values = np.arange(1000, dtype=np.float32).reshape(20, 50)
    values[-1, -1] = 1e6
    # 0.995 * 999 = 994.005: the next value that is there is 995.
    assert scale_of([values]) == Scale(995.0, signed=False, clipped=True)
    assert scale_of([values, -values]) == Scale(995.0, signed=True, clipped=True)


@pytest.mark.parametrize(("hot", "shape"), [(1, (7, 7)), (1, (100, 100))])
def test_the_scale_reaches_a_single_hot_pixel_of_a_coarse_or_empty_map(hot, shape):
    values = np.zeros(shape, np.float32)
    values.flat[:hot] = 5.0
    assert scale_of([values]) == Scale(5.0, signed=False)


def test_rounding_below_zero_does_not_make_a_map_signed():
    assert not scale_of([np.array([[1.0, -1e-9]], np.float32)]).signed
    assert scale_of([np.array([[1.0, -1e-3]], np.float32)]).signed


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_scale_is_refused(limit):
    with pytest.raises(BadInput, match=r"limit: got .*, allowed: a positive number"):
        overlay_figure(WHITE, torch.ones(2, 2), limit=limit)


def test_no_table_of_that_name():
    with pytest.raises(UnknownName, match=r"no colour table is called 'jet'; allowed: cividis, diverging, grey, inferno"):
        colours.colour_table("jet")


@pytest.mark.parametrize(
    "form", [lambda x: x, lambda x: x.permute(1, 2, 0), lambda x: x.permute(1, 2, 0).numpy(), lambda x: x.half(), lambda x: x.double()]
)
def test_an_image_may_come_either_way_round(form):
    image = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1).expand(3, 5, 4)
    got = colours.pixels(form(image))
    assert got.shape == (5, 4, 3)
    assert got[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("image", [torch.zeros(5, 5), torch.zeros(2, 5, 5), torch.zeros(1, 3, 5, 5), torch.zeros(3, 0, 5)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(BadInput, match=r"image: got .*, allowed: \(3, H, W\) or \(H, W, 3\)"):
        overlay_figure(image, torch.zeros(2, 2))


def test_a_normalised_image_is_stretched_between_its_percentiles():
    image = torch.linspace(0, 1, 3 * 1000).view(3, 25, 40)
    normalised = (image - 0.45) / 0.22
    expected = ((image - 0.005) / 0.99).clamp(0, 1)
    torch.testing.assert_close(colours.stretched(normalised), expected, atol=1e-5, rtol=0)
    assert colours.stretched(torch.full((3, 2, 2), 7.0)).tolist() == torch.zeros(3, 2, 2).tolist()


# What is written


@pytest.mark.parametrize(
    ("map_", "note"),
    [
        (torch.zeros(4, 4), "map is zero everywhere"),
        (torch.full((4, 4), 0.5), "map is constant"),
        (torch.full((4, 4), -3.0), "map is constant"),
        (torch.tensor([[float("nan"), float("inf")], [-float("inf"), 1.0]]), "3 values are not finite; map is constant"),
        (torch.tensor([[float("nan"), 2.0], [3.0, 1.0]]), "1 value is not finite"),
        (torch.full((2, 2), float("nan")), "4 values are not finite"),
        (torch.tensor([[1e-45, 3e38], [-3e38, 0.0]]), None),
        (torch.tensor([[1e300, 1.0, 2.0]], dtype=torch.float64), "1 value is not finite"),
        (torch.ones(1, 1), "map is constant"),
        (torch.tensor([[True, False]]), None),
    ],
)
def test_a_strange_map_is_drawn_with_a_note(map_, note):
    figure = overlay_figure(WHITE, map_, title="cat")
    assert [text for text in texts(figure) if "map" in text or "value" in text] == ([note] if note else [])
    assert png(figure).startswith(b"\x89PNG")


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(width=32)))
def test_every_map_can_be_painted(map_):
    values, _ = colours.finite(map_)
    for signed in (True, False):
        scale = scale_of([values])._replace(signed=signed)
        assert painted(values, scale, WHITE).shape == WHITE.shape
        assert painted(values, scale).dtype == np.uint8


def test_an_overlay_has_the_image_the_map_and_a_bar_with_its_numbers():
    figure = overlay_figure(WHITE, torch.tensor([[-2.0, 1.0]]), title="cat, p = 0.9")
    image, over, _ = panels(figure)
    assert image.tolist() == WHITE.tolist()
    assert over[0, 0].tolist() != over[0, -1].tolist()
    assert texts(figure) == ["cat, p = 0.9", "2", "0", "−2"]
    assert texts(overlay_figure(WHITE, torch.tensor([[-2.0, 1.0]]), limit=1.0)) == ["≥ 1", "0", "≤ −1"]
    assert texts(overlay_figure(WHITE, torch.tensor([[2.0, 1.0]]))) == ["2", "1", "0"]


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300,
        "a\nb\tc\r\nd",
        "$x^2$ and $\\frac{",
        "\u202egpj.exe",
        "漢字 🦈 \ue000",
        "שלום عربي",
        "\x00\x07\x1b[31m",
        "\udce9t\udce9.jpg",
        "",
        " ",
        "<b>&amp;",
    ],
)
def test_any_name_can_be_drawn(name):
    maps = torch.eye(4).expand(2, 4, 4)
    strange = attribution(maps, ids=(name, name), method=f"Method({name!r})", classes=(name, name), scores=torch.tensor([1.0, 2.0]))
    for figure in (
        strange.show(torch.rand(2, 3, 8, 8)),
        strange.show(),
        overlay_figure(WHITE, maps[0], title=name),
        compare_figure([WHITE], {name: maps[:1]}, titles=[name]),
    ):
        assert png(figure).startswith(b"\x89PNG")
        for text in texts(figure):
            assert len(text) <= 130
            assert not set(text) & set("\u202e\n\r\t\x00\x1b")


def test_a_long_name_is_shortened_in_the_middle_and_the_rest_is_kept():
    assert shown("abcdefghij", 7) == "abc…hij"
    assert shown("abcdefghij", 10) == "abcdefghij"
    assert shown("a\n\tb  $c$ \u202e漢") == "a b $c$ \ufffd\ufffd"


def test_a_dollar_is_a_dollar(monkeypatch):
    figure = overlay_figure(WHITE, torch.eye(2), title="$\\alpha$")
    assert texts(figure)[0] == "$\\alpha$"
    assert not next(text for text in figure.findobj(Text) if "alpha" in text.get_text()).get_parse_math()
    plain = png(figure)
    monkeypatch.setitem(matplotlib.rcParams, "figure.constrained_layout.use", True)
    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["serif"])
    assert png(overlay_figure(WHITE, torch.eye(2), title="$\\alpha$")) == plain


# Comparisons


def test_methods_in_columns_have_scales_of_their_own_or_share_one_per_row():
    maps = {"small": torch.tensor([[[0.0, 1.0]], [[0.0, 2.0]]]), "large": torch.tensor([[[0.0, 50.0]], [[0.0, 100.0]]])}
    columns = compare_figure([WHITE, WHITE], maps, titles=["one", "two"])
    assert texts(columns) == ["one", "two", "image", "small", "large", "2", "1", "0", "100", "50", "0"]
    rows = compare_figure([WHITE, WHITE], maps, per="row")
    assert texts(rows) == ["image", "small", "large", "50", "25", "0", "100", "50", "0"]
    first, second = panels(columns)[2:4]
    assert second[0, -1].tolist() == [252, 255, 173]  # at the end of its column's scale, over white
    assert first[0, -1].tolist() != second[0, -1].tolist()
    assert panels(rows)[2][0, -1].tolist() != [252, 255, 173]


def test_a_comparison_needs_one_map_per_image():
    with pytest.raises(BadInput, match=r"compare_figure\(cam\): got 1 for 2 images"):
        compare_figure([WHITE, WHITE], {"cam": torch.zeros(1, 2, 2)})
    with pytest.raises(BadInput, match=r"got 0 for 0 images"):
        compare_figure([], {})
    with pytest.raises(UnknownName, match="no way to share a scale is called 'all'"):
        compare_figure([WHITE], {}, per="all")


# Attributions


def test_an_attribution_shows_target_score_id_and_method_on_one_scale():
    maps = torch.stack([torch.eye(4), 3 * torch.eye(4)])
    figure = attribution_figure(attribution(maps, scores=torch.tensor([12.345, -1.0])))
    assert texts(figure) == ["GradCAM() for net", "cat, logit = 12.3", "image 0", "dog, logit = -1", "image 1", "3", "1.5", "0"]
    weak, strong, _ = panels(figure)
    assert strong[0, 0].tolist() == [252, 255, 164]
    assert weak[0, 0].tolist() == colours.colour_table("inferno")[85].tolist()  # a third of the scale


def test_images_are_found_by_id_whatever_their_order():
    images = torch.zeros(3, 3, 8, 8)
    images[0, :, :4], images[1, :, 4:], images[2, :, :, :4] = 1, 1, 1
    batch = Batch(images, Targets(torch.arange(3)), ("a", "b", "c"))
    figure = attribution(torch.eye(4).expand(2, 4, 4), ids=("c", "a")).show(batch)
    first, _, second, _, _ = panels(figure)
    columns = np.where(np.arange(8) < 4, 255, 0)
    np.testing.assert_array_equal(first[..., 0], np.broadcast_to(columns, (8, 8)))
    np.testing.assert_array_equal(second[..., 0], np.broadcast_to(columns[:, None], (8, 8)))
    with pytest.raises(BadInput, match="batch: has no image with the id 'd'"):
        attribution(torch.zeros(1, 4, 4), ids=("d",)).show(batch)


def test_images_whose_ids_repeat_are_told_apart_by_their_order():
    images = torch.zeros(2, 3, 8, 8)
    images[0, :, :4], images[1, :, 4:] = 1, 1
    batch = Batch(images, Targets(torch.arange(2)), ("a", "a"))
    first, _, second, _, _ = panels(attribution(torch.eye(4).expand(2, 4, 4), ids=("a", "a")).show(batch))
    assert (first[0, 0, 0], second[0, 0, 0]) == (255, 0)


def test_only_as_many_maps_as_asked_for_are_shown():
    many = attribution(torch.rand(9, 4, 4))
    assert len(panels(many.show())) == 8 + 1
    assert len(panels(many.show(torch.rand(9, 3, 8, 8), limit=3))) == 2 * 3 + 1
    assert texts(attribution(torch.zeros(0, 4, 4)).show()) == ["GradCAM() for net: no maps"]
    with pytest.raises(BadInput, match="limit: got 0, allowed: a number of maps from 1 up"):
        many.show(limit=0)
    with pytest.raises(BadInput, match=r"images: got \(2, 3, 8, 8\), allowed: \(8, 3, 8, 8\)"):
        many.show(torch.rand(2, 3, 8, 8))


# Files and notebooks


def test_a_saved_figure_is_complete_or_not_there(tmp_path, monkeypatch):
    figure = overlay_figure(WHITE, torch.eye(2))
    path = write_whole(tmp_path / "deep" / "map.png", png(figure))
    with Image.open(path) as image:
        assert image.size == tuple(int(side * drawing.DPI) for side in figure.get_size_inches())
    before = path.read_bytes()
    assert write_whole(path, png(overlay_figure(WHITE, torch.eye(2)))).read_bytes() == before

    def breaks(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", breaks)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, png(overlay_figure(WHITE, torch.ones(2, 2))))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["map.png"]


def test_a_notebook_shows_the_figure_and_no_display_is_touched():
    code = (
        "import sys, torch; from attribkit.report.figures import overlay_figure\n"
        "picture = overlay_figure(torch.zeros(3, 4, 4), torch.eye(2))._repr_png_()\n"
        "print(picture[:4] == b'\\x89PNG', 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "False"], done.stderr
