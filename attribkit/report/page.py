"""Pages: one HTML file that needs nothing else, neither a network nor the files beside it, and that a later version can add sections to.

A page is a list of `Section`s in one shell (`templates/page.html`), which carries the style and the scripts inside and a content
security policy that lets nothing else run or load: `default-src 'none'`, each script and style by its hash. Every string that reaches a
page is escaped by the template engine, and characters that control, hide or reorder others become visible marks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ..errors import BadInput
from ..files import write_whole
from ..registry import short

# Control characters other than white space, the marks that reorder text, and halves of surrogate pairs (from undecodable file names).
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_JOINTS = re.compile(r"([(,/_=])(?!\))")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})|https?://[^\s<>&]*[^\s<>&.,;)]")  # in escaped text


@dataclass(frozen=True)
class About:
    """What was run: facts (model, versions) by name, methods and metrics as (name, repr, paper), failures as (id, reason)."""

    facts: Mapping[str, str] = field(default_factory=dict)
    methods: Sequence[tuple[str, str, str]] = ()
    failures: Sequence[tuple[str, str]] = ()
    metrics: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page: the template that shows it, what the template is filled with, and a script with the data that it reads.

    `name` is its id in the page, and each is used once; several sections may share a template, a script, and a `style` of their own.
    """

    name: str
    template: str
    content: Mapping[str, Any]
    script: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    heading: str = ""
    style: str = ""


def write_page(path: str | Path, sections: Sequence[Section], *, title: str, summary: str = "") -> Path:
    """Write sections as one HTML file; it appears under its name only once it is complete."""
    names = [section.name for section in sections]
    if len(set(names)) < len(names):
        raise BadInput(f"sections: got {names}, allowed: each name once")
    style = "".join(map(_source, dict.fromkeys(["page.css", *(section.style for section in sections if section.style)])))
    scripts = {section.script: _source(section.script) for section in sections if section.script}
    runs = " ".join(map(_hashed, scripts.values())) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src {_hashed(style)}; script-src {runs}; base-uri 'none'; form-action 'none'"
    # What is marked as safe is made of digests, or stands in files of this package.
    parts = {"policy": Markup(policy), "style": Markup(style), "scripts": [Markup(script) for script in scripts.values()]}
    html = _templates().get_template("page.html").render(title=title, summary=summary, sections=sections, **parts)
    return write_whole(path, html.encode("utf-8", "replace"))


def visible(text: object) -> str:
    """The text with a mark in place of each character that controls, hides or reorders others."""
    return _UNSEEN.sub("\ufffd", str(text))


# Templates


@lru_cache
def _templates() -> jinja2.Environment:
    """The templates, with escaping on, and every string that is written made visible."""

    def written(value: object) -> object:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    loader = jinja2.PackageLoader(__package__ or "attribkit.report")
    strict = jinja2.StrictUndefined
    env = jinja2.Environment(loader=loader, autoescape=True, undefined=strict, finalize=written, trim_blocks=True, lstrip_blocks=True)
    env.filters |= {"linked": linked, "breakable": breakable, "short": short}
    env.policies["json.dumps_function"] = json.dumps
    env.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return env


def linked(text: str) -> Markup:
    """A citation in which arXiv numbers and addresses are links."""

    def link(found: re.Match[str]) -> str:
        address = f"https://arxiv.org/abs/{found[1]}" if found[1] else found[0]
        return f'<a href="{address}" rel="noreferrer">{found[0]}</a>'

    return Markup(_PAPER.sub(link, str(escape(visible(text)))))


def breakable(text: str) -> Markup:
    """A name that may be broken after its brackets, commas and slashes, rather than anywhere."""
    return Markup(_JOINTS.sub(r"\1<wbr>", str(escape(visible(text)))))


@lru_cache
def _source(name: str) -> str:
    """A file of the templates as it stands, with the line ends that a browser hashes."""
    file = resources.files(__package__ or "attribkit.report") / "templates" / name
    return file.read_text("utf-8").replace("\r\n", "\n")


def _hashed(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
