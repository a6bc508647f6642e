"""Layouts: what a layer's shape says about where it lies over the image, and the way to a grid and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attribkit.model.tokens import Layout, layout

SIDES = st.integers(1, 20)
untimed = settings(deadline=None)


def grid_of(channels, height, width):
    return torch.arange(2.0 * channels * height * width).view(2, channels, height, width)


@untimed
@given(height=SIDES, width=SIDES, prefix=st.integers(0, 8), channels=st.integers(1, 9), patch=st.integers(1, 16), rest=st.integers(0, 15))
def test_tokens_of_a_declared_patch_come_back_as_the_grid_they_were(height, width, prefix, channels, patch, rest):
    if height * width < 2:
        return
    grid, rest = grid_of(channels, height, width), min(rest, patch - 1)
    tokens = torch.cat([torch.full((2, prefix, channels), -1.0), grid.flatten(2).transpose(1, 2)], 1)
    image = (height * patch + rest, width * patch + rest)  # what is left over at the border belongs to no patch
    found = layout(tuple(tokens.shape), image, (patch, patch))
    assert found == Layout("tokens", height, width, prefix)
    torch.testing.assert_close(found.to_grid(tokens), grid, rtol=0, atol=0)
    assert found.channels(tokens) == channels


@untimed
@given(side=st.integers(4, 40), prefix=st.integers(0, 8), patch=st.integers(1, 32))
def test_tokens_over_a_square_image_need_no_declaration(side, prefix, patch):
    # From 4 x 4 on the next smaller prefix that leaves a square is more than 8 tokens away.
    assert layout((2, side**2 + prefix, 7), (side * patch, side * patch)) == Layout("tokens", side, side, prefix)


@untimed
@given(height=st.integers(1, 9), width=st.integers(1, 9), times=st.integers(4, 8))
def test_tokens_over_an_image_that_is_not_square_have_its_aspect(height, width, times):
    found = layout((2, height * width * times**2, 7), (height * 32, width * 32))
    assert found is not None
    assert (found.kind, found.height * width) == ("tokens", found.width * height)


@untimed
@given(height=st.integers(2, 60), width=st.integers(2, 60), channels=st.integers(1, 200), stride=st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_channels_first_is_found_wherever_it_fits(height, width, channels, stride):
    found = layout((2, channels, height, width), (height * stride, width * stride))
    assert found is not None
    if found.kind == "channels_last":  # then it lies over the image just as well
        assert abs(height - channels * height / width) <= 1 + 0.1 * height
    else:
        assert (found.height, found.width) == (height, width)


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((2, 512, 7, 7), (224, 224), Layout("channels_first", 7, 7)),
        ((2, 7, 7, 768), (224, 224), Layout("channels_last", 7, 7)),
        ((2, 2, 3, 768), (64, 96), Layout("channels_last", 2, 3)),
        ((2, 768, 2, 3), (64, 96), Layout("channels_first", 2, 3)),
        ((2, 8, 8, 16), (64, 64), Layout("channels_last", 8, 8)),
        ((2, 192, 1, 3), (96, 144), Layout("channels_first", 1, 3)),
        ((2, 256, 35, 53), (299, 450), Layout("channels_first", 35, 53)),  # 299 x 450 through unpadded strides
        ((2, 16, 92, 192), (100, 200), Layout("channels_first", 92, 192)),  # through four 3 x 3 convolutions without padding
        ((2, 4, 6, 8), (64, 96), Layout("channels_last", 4, 6)),  # 6 x 8 of 4 channels would fit too, less well
        ((2, 197, 192), (224, 224), Layout("tokens", 14, 14, 1)),
        ((2, 198, 192), (224, 224), Layout("tokens", 14, 14, 2)),
        ((2, 25, 192), (64, 96), Layout("tokens", 4, 6, 1)),
        ((2, 49, 192), (224, 224), Layout("tokens", 7, 7)),
    ],
)
def test_known_shapes(shape, image, expected):
    assert layout(shape, image) == expected


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((2, 1000), (224, 224)),  # logits
        ((2, 512, 1, 1), (224, 224)),  # pooled
        ((2, 3, 197, 64), (224, 224)),  # the queries of three heads
        ((2, 3, 65, 64), (32, 32)),  # more rows than the image has pixels
        ((2, 3, 17, 16), (64, 64)),  # the keys of three heads, of nearly as many tokens as channels
        ((2, 12, 25, 25), (64, 96)),  # attention over an image that is not square
        ((2, 300, 300, 3), (224, 224)),  # finer than pixels
        ((2, 3, 5), (224, 224)),
        ((2, 46, 192), (224, 224)),  # 6 x 6 and ten more
        ((2, 5, 16, 14, 14), (224, 224)),
        ((2,), (224, 224)),
    ],
)
def test_what_does_not_lie_over_the_image_has_no_layout(shape, image):
    assert layout(shape, image) is None


def test_a_declared_patch_tells_a_prefix_from_patches():
    # 9 tokens: 3 x 3 patches, or 2 x 4 of them behind a class token
    assert layout((2, 9, 4), (32, 64), (16, 16)) == Layout("tokens", 2, 4, 1)
    assert layout((2, 9, 4), (48, 48)) == Layout("tokens", 3, 3)
    # After merging, Swin's last stage has fewer tokens than the patches that its configuration declares.
    assert layout((2, 49, 768), (224, 224), (4, 4)) == Layout("tokens", 7, 7)


def test_channels_first_and_last_are_views_of_the_output():
    output = torch.randn(2, 5, 6, 7)
    assert Layout("channels_first", 6, 7).to_grid(output) is output
    torch.testing.assert_close(Layout("channels_last", 5, 6).to_grid(output)[1, 6, 4, 5], output[1, 4, 5, 6], rtol=0, atol=0)
    assert Layout("channels_last", 5, 6).to_grid(output).data_ptr() == output.data_ptr()
