"""Pages: what is stored, that nothing else can run or load, and, where Chromium is installed, that it paints what Python does."""

import contextlib
import re

import numpy as np
import pytest
import torch
from pages import HOSTILE, Browser, Parsed, decoded, digest

from attribkit.errors import BadInput
from attribkit.maps import resize
from attribkit.report import colours
from attribkit.report import gallery as galleries
from attribkit.report.gallery import Item, gallery
from attribkit.report.page import About, Section, linked, write_page

GREY = np.full((8, 8, 3), 128, np.uint8)


def write_gallery(path, items, *, title, summary="", about=None):
    """A page of one gallery, and of what was run where that is given."""
    sections = [gallery(items)] if about is None else [gallery(items), Section("about", "about.html", {"about": about})]
    return write_page(path, sections, title=title, summary=summary)


def written(tmp_path, *items, **how):
    return Parsed(write_gallery(tmp_path / "page.html", items, **({"title": "A page"} | how)))


def first_map(tmp_path, map_, image=GREY):
    return written(tmp_path, Item(image, "a", "cat", {"m": map_})).data["gallery-data"]["items"][0]["maps"][0]


# What is stored


def test_a_signed_map_is_coded_around_128(tmp_path):
    stored = first_map(tmp_path, torch.tensor([[-1.0, 0.0], [0.5, 1.0]]))
    assert decoded(stored["src"]).tolist() == [[1, 128], [192, 255]]  # 128 + 127 * 0.5 = 191.5, rounded to even
    assert {name: stored[name] for name in ("signed", "limit", "min", "max", "note")} == {
        "signed": True,
        "limit": 1,
        "min": -1,
        "max": 1,
        "note": "",
    }


def test_a_map_without_negatives_uses_all_codes(tmp_path):
    stored = first_map(tmp_path, torch.tensor([[0.0, 0.4], [1.0, 2.0]]))
    assert decoded(stored["src"]).tolist() == [[0, 51], [128, 255]]  # 255 * 0.2 = 51, 255 * 0.5 = 127.5
    assert (stored["signed"], stored["limit"]) == (False, 2)


def test_a_heavy_tail_is_cut_in_colour_and_kept_in_numbers(tmp_path):
    map_ = torch.ones(20, 20)
    map_[0, 0] = 50.0
    stored = first_map(tmp_path, map_, np.zeros((32, 32, 3), np.uint8))
    assert (stored["limit"], stored["min"], stored["max"]) == (1, 1, 50)
    assert (decoded(stored["src"]) == 255).all()


def test_maps_keep_their_own_grid_up_to_that_of_the_image(tmp_path):
    assert decoded(first_map(tmp_path, torch.rand(3, 5))["src"]).shape == (3, 5)
    checker = torch.tensor([[0.0, 4.0], [0.0, 0.0]]).repeat(8, 8)  # each 2x2 block has the mean 1
    stored = first_map(tmp_path, checker)
    assert decoded(stored["src"]).tolist() == [[255] * 8] * 8
    assert (stored["limit"], stored["max"]) == (1, 4)


def test_each_image_and_each_map_is_stored_once(tmp_path):
    items = [Item(GREY, f"id {i}", "cat", {"a": torch.rand(2, 2), "b": torch.rand(2, 2)}, {"box": torch.eye(8)}) for i in range(3)]
    path = write_gallery(tmp_path / "page.html", iter(items), title="A page")
    text = path.read_text("utf-8")
    assert text.count("data:image/jpeg") == 3
    assert text.count("data:image/png") == 3 * 2 + 3
    assert len(set(re.findall(r"data:image/png;base64,[^\"]+", text))) == 6 + 1


def test_a_large_image_is_reduced_and_keeps_its_shape(tmp_path):
    (image,) = written(tmp_path, Item(np.zeros((400, 640, 3), np.uint8), "a", "cat", {})).all("img")
    assert decoded(image["src"]).shape == (200, 320, 3)
    assert (image["width"], image["height"]) == ("320", "200")


def test_regions_are_masks_of_the_size_of_the_image(tmp_path):
    box = torch.zeros(8, 8)
    box[:4] = 0.8
    data = written(tmp_path, Item(GREY, "a", "cat", {}, {"box": box}), Item(GREY, "b", "dog", {}, {"tag": box})).data["gallery-data"]
    assert data["regions"] == ["box", "tag"]
    assert data["items"][0]["regions"][1] is None
    assert decoded(data["items"][0]["regions"][0]).tolist() == (box > 0.5).tolist()


def test_the_shared_scale_holds_19_of_20_maps(tmp_path):
    items = [Item(GREY, str(i), "", {"m": torch.full((1, 1), float(i)), "n": torch.tensor([[-0.5, 0.25]])}) for i in range(21)]
    methods = written(tmp_path, *items).data["gallery-data"]["methods"]
    # The all-zero map says nothing of the scale; of 1 ... 20 the 95th percentile is 19.05, and the next that is there 20.
    assert methods == [{"name": "m", "signed": False, "limit": 20}, {"name": "n", "signed": True, "limit": 0.5}]


@pytest.mark.parametrize(
    ("map_", "note"),
    [
        (torch.zeros(2, 2), "map is zero everywhere"),
        (torch.ones(2, 2), "map is constant"),
        (torch.tensor([[float("nan"), 1.0, 2.0, -float("inf")]]), "2 values are not finite"),
    ],
)
def test_a_strange_map_has_a_note_and_finite_numbers(tmp_path, map_, note):
    stored = first_map(tmp_path, map_)
    assert stored["note"] == note
    assert all(np.isfinite(stored[name]) for name in ("limit", "min", "max"))


def test_an_image_without_a_map_of_a_method_has_none(tmp_path):
    data = written(tmp_path, Item(GREY, "a", "", {"m": torch.eye(2)}), Item(GREY, "b", "", {"n": torch.eye(2)})).data["gallery-data"]
    assert [[map_ is None for map_ in item["maps"]] for item in data["items"]] == [[False, True], [True, False]]


def test_many_fine_maps_are_averaged_down_until_they_fit(tmp_path, monkeypatch):
    fine = torch.tensor([[0.0, 4.0], [0.0, 0.0]]).repeat(32, 32)
    items = [Item(np.zeros((64, 64, 3), np.uint8), str(i), "", {"fine": fine, "coarse": torch.eye(7)}) for i in range(2)]
    monkeypatch.setattr(galleries, "MAP_BYTES", 2 * (33**2 + 7**2))
    path = write_gallery(tmp_path / "page.html", items, title="A page", about=About())
    stored = Parsed(path).data["gallery-data"]["items"][0]["maps"]
    assert decoded(stored[0]["src"]).shape == (31, 31)  # 64, 56, 49, 42, 36, 31: 7/8 each time until it fits
    assert decoded(stored[1]["src"]).shape == (7, 7)


# What a page may do


def test_nothing_but_its_own_scripts_and_data_can_run_or_load(tmp_path):
    parsed = written(
        tmp_path,
        Item(GREY, "a", "cat", {"m": torch.eye(2)}),
        about=About({"model": "m"}, [("m", "M()", "arXiv:1610.02391")], [("b.jpg", "broken")]),
    )
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": digest(parsed.styles[0]),
        "script-src": digest(parsed.scripts[0]),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert (len(parsed.scripts), len(parsed.styles)) == (1, 1)
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            link = tag == "a" and name == "href"
            assert attributes.get(name, "data:").startswith("https://arxiv.org/abs/" if link and name in attributes else "data:"), tag
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|fetch\(|XMLHttpRequest|import\(|eval\(|innerHTML", parsed.scripts[0])
    assert not re.search(r"url\(|@import", parsed.styles[0])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(tmp_path, name):
    plain = About({"f": "g"}, [("m", "s", "p")], [("i", "r")])
    clean = written(tmp_path, Item(GREY, "a", "b", {"m": torch.eye(2)}, {"r": torch.eye(8)}), summary="s", about=plain)
    about = About({name: name}, [(name, name, name)], [(name, name)])
    parsed = written(tmp_path, Item(GREY, name, name, {name: torch.eye(2)}, {name: torch.eye(8)}), title=name, summary=name, about=about)
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in clean.tags]
    assert parsed.scripts == clean.scripts
    assert parsed.all("img")[0]["alt"] == name
    # title, heading, summary, caption, id, the method in the list, fact twice, method three times, failure twice
    assert parsed.texts.count(name) == 13
    assert parsed.data["gallery-data"]["methods"][0]["name"] == name
    assert parsed.data["gallery-data"]["regions"] == [name]


@pytest.mark.parametrize(
    ("name", "seen"), [("\u202egpj.exe", "\ufffdgpj.exe"), ("a\x00\x1bb", "a\ufffd\ufffdb"), ("\udce9t\udce9.jpg", "\ufffdt\ufffd.jpg")]
)
def test_what_hides_or_reorders_text_becomes_visible(tmp_path, name, seen):
    parsed = written(tmp_path, Item(GREY, name, name, {name: torch.eye(2)}), title=name)
    assert parsed.texts.count(seen) == 5
    assert parsed.data["gallery-data"]["methods"][0]["name"] == seen
    assert not set(name) - set(seen) & set((tmp_path / "page.html").read_text("utf-8"))


def test_papers_are_links_and_nothing_else_is():
    assert linked("Sundararajan 2017, arXiv:1703.01365.") == (
        'Sundararajan 2017, <a href="https://arxiv.org/abs/1703.01365" rel="noreferrer">arXiv:1703.01365</a>.'
    )
    assert (
        linked("see https://example.org/a?b=1).")
        == 'see <a href="https://example.org/a?b=1" rel="noreferrer">https://example.org/a?b=1</a>).'
    )
    assert linked("<a href='javascript:x'>") == "&lt;a href=&#39;javascript:x&#39;&gt;"
    assert linked('https://x.org/"onclick=1') == '<a href="https://x.org/" rel="noreferrer">https://x.org/</a>&#34;onclick=1'


def test_a_page_is_complete_or_not_there(tmp_path):
    path = write_gallery(tmp_path / "deep" / "page.html", [], title="Before")
    before = path.read_bytes()
    assert b"There is no image to show." in before

    def breaks():
        yield Item(GREY, "a", "", {"m": torch.eye(2)})
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_gallery(path, breaks(), title="After")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_one_page_holds_several_galleries_with_one_script(tmp_path):
    sections = [gallery([Item(GREY, "a", "", {"m": torch.eye(2)})], name=name, heading=f"About {name}") for name in ("one", "two")]
    parsed = Parsed(write_page(tmp_path / "page.html", sections, title="Both"))
    assert (len(parsed.scripts), set(parsed.data)) == (1, {"one-data", "two-data"})
    assert [part["id"] for part in parsed.all("section")] == ["one", "two"]
    assert {"About one", "About two"} <= set(parsed.texts)
    with pytest.raises(BadInput, match=r"sections: got \['one', 'one'\], allowed: each name once"):
        write_page(tmp_path / "page.html", [sections[0], sections[0]], title="Twice")


def test_a_page_without_scripts_allows_none(tmp_path):
    section = Section("about", "about.html", {"about": About({"model": "m"})})
    assert "script-src 'none'" in write_page(tmp_path / "page.html", [section], title="Plain").read_text("utf-8")


# In a browser


@pytest.fixture
def browse(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda path: stack.enter_context(Browser.at(path, tmp_path / "profile"))


def test_a_browser_draws_the_page_and_obeys_its_keys(tmp_path, browse):
    strange = {HOSTILE[0]: torch.eye(3), "n": torch.eye(3) - 0.5}
    items = [Item(GREY, name, name, strange, {HOSTILE[2]: torch.eye(8)}) for name in HOSTILE[:3]]
    page = browse(write_page(tmp_path / "page.html", [gallery(items, name=name) for name in ("one", "two")], title=HOSTILE[1]))
    page.until("[...document.querySelectorAll('.gallery')].map((each) => each.dataset.drawn).join() === '3,3'")
    assert page.run("document.querySelectorAll('.panel path').length") == 3 * 2 * 2  # a line and its halo each
    assert page.run("[...document.querySelectorAll('.trouble')].every((each) => each.hidden)")
    assert page.run("document.querySelector('.legend-regions').textContent") == HOSTILE[2]

    page.run("document.getElementById('two').scrollIntoView({ block: 'center' })")  # keys go to the gallery in the middle
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.run("[...document.querySelectorAll('#two .open')].indexOf(document.activeElement)") == 1
    page.run("document.activeElement.click()")
    assert page.run("document.querySelector('#two dialog[open] .large-caption').textContent") == HOSTILE[1]
    page.until("document.querySelectorAll('#two dialog canvas[data-drawn]').length === 2")
    page.press("ArrowRight")
    assert page.run("document.querySelector('#two dialog[open] .large-id').textContent") == HOSTILE[2]

    find = "document.querySelector('input[type=search]')"
    page.run(f"{find}.value = 'ONERROR'; {find}.dispatchEvent(new Event('input', {{ bubbles: true }}))")
    assert page.run("document.querySelector('.count').textContent") == "1 of 3 images"
    assert page.complaints == []


def test_the_browser_paints_what_the_figures_paint(tmp_path, browse):
    """The colours are those of `colours.painted`, up to the 8 bits of the stored codes and of the JPEG."""
    generator = torch.Generator().manual_seed(0)
    photo = np.full((16, 24, 3), (180, 90, 40), np.uint8)
    maps = {"signed": torch.randn(4, 6, generator=generator), "positive": torch.rand(4, 6, generator=generator)}
    page = browse(write_gallery(tmp_path / "page.html", [Item(photo, "a", "cat", maps)], title="A page"))
    for view, under in (("overlay", photo), ("map", None)):
        for place, (table, map_) in enumerate(zip(("diverging", "inferno"), maps.values(), strict=True)):
            page.until("document.readyState === 'complete' && document.querySelector('.panel canvas') !== null")
            set_ = f"form.view.value = '{view}'; form.method.value = '{place}'; form.dispatchEvent(new Event('input', {{ bubbles: true }}))"
            page.run(f"(() => {{ const form = document.querySelector('form.bar'); {set_}; }})()")
            page.until(f"document.querySelector('.panel canvas').dataset.drawn === '{view} {table}'")
            seen = page.run("[...document.querySelector('.panel canvas').getContext('2d').getImageData(0, 0, 24, 16).data]")
            values, _ = colours.finite(map_)
            scale = colours.scale_of([values])
            resized = resize(torch.from_numpy(values)[None], (16, 24))[0].numpy()
            away = np.abs(colours.painted(resized, scale, under).astype(int) - np.array(seen).reshape(16, 24, 4)[..., :3])
            assert away.max() <= 8, (view, table)
            assert away.mean() < 1.5, (view, table)
    assert page.complaints == []


def test_the_strongest_places_are_kept_and_the_scale_can_be_shared(tmp_path, browse):
    photo = np.zeros((10, 10, 3), np.uint8)
    ramp = torch.arange(100.0).view(10, 10)
    page = browse(
        write_gallery(
            tmp_path / "page.html", [Item(photo, str(i), "", {"m": ramp * gain}) for i, gain in enumerate((1.0, 4.0))], title="A page"
        )
    )
    page.until("document.querySelector('.gallery')?.dataset.drawn === '2'")

    def seen(**controls):
        set_ = "".join(f"form.{name}.value = '{value}';" for name, value in controls.items())
        set_ += "form.dispatchEvent(new Event('input', { bubbles: true }));"
        page.run(f"(() => {{ const form = document.querySelector('form.bar'); {set_} }})()")
        page.run("new Promise((go) => requestAnimationFrame(() => setTimeout(go, 100)))")
        rows = page.run(
            "[...document.querySelectorAll('.panel canvas')].map((c) => [...c.getContext('2d').getImageData(0, 0, 10, 10).data])"
        )
        return np.array(rows).reshape(2, 100, 4)[..., :3]

    weak, strong = seen(view="map", top=20, table="grey", scale="own")
    assert (weak > 0).all(1).nonzero()[0].tolist() == list(range(80, 100))
    assert weak.tolist() == strong.tolist()
    weak, strong = seen(top=100, scale="shared")
    assert (weak[99].tolist(), strong[99].tolist()) == ([64] * 3, [255] * 3)  # a quarter of 255
