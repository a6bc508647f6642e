"""The shape of the code: which room may import which, where each kind of line lives, and how large things may get."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attribkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NAMES = {path: path.relative_to(PACKAGE).as_posix() for path in MODULES}

# Rooms from the ground up; what stands in one line may not import one another.
LAYERS = [
    "errors files",
    "dividing registry",
    "batch maps images noise progress segments",
    "scoring",
    "attribution scores",
    "model",
    "removals",
    "methods metrics problems",
    "testing",
    "configuration explaining",
    "store",
    "diagnosis",
    "report",
    "evaluating",
    "diagnosing",
    "demo",
    "__init__",
    "cli",
    "__main__",
]
RANK = {room: place for place, line in enumerate(LAYERS) for room in line.split()}

# A result opens its own picture (`maps.show()`), and does so only when it is asked to.
UPWARDS = {("attribution.py", "show", "report.figures")}


@cache
def tree(path: Path) -> ast.Module:
    """The module as a tree, without what only a type checker reads."""
    parsed = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(parsed):
        for name, body in ast.iter_fields(node):
            if isinstance(body, list):
                setattr(node, name, [each for each in body if not _for_type_checkers(each)] or [ast.Pass()] * bool(body))
    return parsed


def _for_type_checkers(node: object) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def code(path: Path) -> str:
    """The module's statements alone: no comments, no docstrings, one form of quotes."""
    parsed = ast.parse(ast.unparse(tree(path)))
    for node in ast.walk(parsed):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(parsed)


def room(name: str) -> str:
    return name.partition("/")[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Each module of the package that `path` imports, dotted from the package's root ("" is the root), and the function it does it in."""
    here = NAMES[path].removesuffix(".py").split("/")
    within = {id(inner): outer.name for outer in ast.walk(tree(path)) if isinstance(outer, ast.FunctionDef) for inner in ast.walk(outer)}
    for node in ast.walk(tree(path)):
        function = within.get(id(node), "")
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield ".".join([*base, alias.name] if _is_module([*base, alias.name]) else base), function
        elif isinstance(node, ast.ImportFrom | ast.Import):
            named = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (("", function) for name in named if name is not None and name.split(".")[0] == "attribkit")


def _is_module(parts: list[str]) -> bool:
    return PACKAGE.joinpath(*parts).is_dir() or PACKAGE.joinpath(*parts).with_suffix(".py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=NAMES.get)
def test_imports_only_point_down(path: Path) -> None:
    mine = room(NAMES[path])
    assert mine in RANK, f"{NAMES[path]} is in no room of LAYERS"
    wrong = []
    for target, function in imports(path):
        theirs = target.partition(".")[0] or "__init__"
        if theirs != mine and not RANK[theirs] < RANK[mine] and (NAMES[path], function, target) not in UPWARDS:
            wrong.append(f"{NAMES[path]} imports {target or 'attribkit'} {function and f'in {function}()'}")
    assert not wrong, "\n".join(wrong)


def test_the_only_import_upwards_is_still_there() -> None:
    """An exception that nobody uses any more would let something else through."""
    for name, function, target in UPWARDS:
        assert (target, function) in imports(PACKAGE / name)


def test_no_module_is_part_of_an_import_cycle() -> None:
    def file(target: str) -> Path:
        place = PACKAGE.joinpath(*filter(None, target.split(".")))
        return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")

    graph = {path: {file(target) for target, function in imports(path) if not function} - {path} for path in MODULES}
    while free := [path for path, others in graph.items() if not others & set(graph)]:
        for path in free:
            del graph[path]
    assert not graph, f"these import one another in a circle, or are imported by such: {sorted(NAMES[path] for path in graph)}"


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_method_is_there_because_its_file_is_imported(folder: str) -> None:
    """A folder whose files enter classes in a table imports every one of them: registration is that line."""
    entering = [
        path
        for path in (PACKAGE / folder).glob("*.py")
        if re.search(r"\(Method\)|\(Wrapper\)|\(Metric\)|\(Anew\)|\((Removal|InFill|Fill)\):\s|PROBLEMS\.add", code(path))
    ]
    imported = {target for target, _ in imports(PACKAGE / folder / "__init__.py")}
    if folder == "methods":
        assert len(entering) >= 4, "the search for method files finds none"
    assert [path.name for path in entering if f"{folder}.{path.stem}" not in imported] == []


# What a line does -> a pattern, and where it may stand: files or folders, each for a reason.
ROOMS: dict[str, tuple[str, dict[str, str]]] = {
    "registers a hook": (r"register_\w*hook", {"model/taps.py": "its room"}),
    "sets evaluation or training mode": (
        r"\.eval\(|\.train\(|\.training = ",
        {
            "model/lent.py": "its room",
            "model/zoo.py": "a model is loaded in evaluation mode",
            "model/planted.py": "a model is loaded in evaluation mode",
            "model/replica.py": "on the copy it makes",
            "testing/": "in checks, on networks of their own, and on one among a removal's settings, which they give back",
        },
    ),
    "sets requires_grad": (
        r"requires_grad_\(|\.requires_grad = ",
        {
            "model/lent.py": "its room",
            "model/adapter.py": "on copies of images, not on a weight",
            "model/taps.py": "on the leaf it made, not on a weight",
            "model/families.py": "on the probe it made, not on a weight",
            "model/replica.py": "on copies of images and of what a layer returned, not on a weight",
            "testing/common.py": "in checks, on networks and copies of images of their own",
        },
    ),
    "switches gradients": (
        r"no_grad|enable_grad|set_grad_enabled|inference_mode",
        {
            "model/lent.py": "its room",
            "model/adapter.py": "what is made of a layer and its gradient needs no graph",
            "model/memory.py": "the kind of tensors that its rows are made in",
            "testing/common.py": "checks that a call gives the same under each of the caller's modes",
            "testing/state.py": "checks that a call leaves the mode as it was",
            "testing/metric_bench.py": "the weights of a network of its own",
        },
    ),
    "differentiates": (r"autograd\.grad", {"model/lent.py": "its room", "model/families.py": "looks for live gradients"}),
    "adds to .grad": (r"\.backward\(", {}),
    "draws": (r"\bmatplotlib\b", {"report/drawing.py": "its room"}),
    "draws on a global canvas": (r"pyplot|pylab", {}),
    "prints, exits, parses arguments": (
        r"\bprint\(|click|sys\.exit|\bexit\(|argparse|sys\.argv|sys\.std|\btqdm\b",
        {"cli/": "its room"},
    ),
    "reads a PyTorch file": (r"(?<!safetensors\.)torch\.load\b|torch\.serialization", {"model/weights.py": "its room"}),
    "runs what a file or a text says": (
        r"\b(pickle|cPickle|cloudpickle|dill|joblib|shelve|marshal|yaml)\b|allow_pickle|torch\.hub|(?<![.\w])(eval|exec|compile|__import__)\(",
        {
            "segments.py": "joblib runs worker processes; nothing is read from a file",
            "testing/settings.py": "reads back what it has pickled itself",
        },
    ),
    "asks the network": (r"\b(socket|urllib|requests|httpx)\.\w|huggingface_hub", {"model/sources.py": "downloads weights"}),
    "resizes": (
        r"\binterpolate\(|grid_sample|F\.upsample",
        {
            "maps.py": "its room",
            "problems/planted.py": "scenes, as pixels and masks, for a model of another size",
            "model/sized.py": "position embeddings, and no maps",
        },
    ),
    "asks what family a model is of": (
        r"'(torchvision|timm|transformers)\.models\.",
        {"model/families.py": "its room"},
    ),
    "moves to the host": (
        r"\.item\(|\.cpu\(|\.numpy\(|\.tolist\(|\.to\('cpu'",
        {
            "report/": "pictures, tables and pages are made on the host",
            "demo.py": "writes pictures and says numbers",
            "attribution.py": "saves, and names the classes",
            "scores.py": "rows and intervals as plain numbers, from what is on the host",
            "scoring/parts.py": "its room: scores come to the host together, when first read",
            "problems/cells.py": "which images a model is sure of, while they are read",
            "segments.py": "scikit-image divides pictures on the host",
            "removals/host.py": "OpenCV and scikit-image paint on the host",
            "metrics/picture_size.py": "Pillow writes WebP on the host",
            "methods/integrated_gradients.py": "NumPy's table of Gauss-Legendre nodes, which was never on a device",
            "methods/precomputed.py": "maps are read from files on the host, by the class that each explains",
            "problems/shards.py": "digests are of bytes on the host",
            "store/shards.py": "maps are written from the host",
            "evaluating/": "what a run keeps, and what its page shows, is on the host",
            "diagnosing/": "answers are counted, and pictures shown, on the host",
            "diagnosis/": "its arrays of answers and scores, which are on the host",
        },
    ),
    "writes a file": (
        r"\.write_(bytes|text)\(|\.mkdir\(|\.unlink\(|\.rename\(|\.replace\(path\)|\.open\('[wax]|\bopen\(.*'[wax]",
        {
            "files.py": "the one way a file is written",
            "cli/": "makes the folder of --out",
            "report/output.py": "removes what an earlier run into the same folder wrote, and notes what this one does",
            "store/": "the folder of a run: what a killed process has left is removed, a damaged ledger is set aside",
        },
    ),
    "draws from or seeds the global generators": (
        r"torch\.manual_seed|torch\.seed\(|random\.seed|np\.random\.(?!Generator|default_rng|SeedSequence|PCG64|Philox)\w+|\brandom\.(?!fork_rng)\w+\(",
        {
            "model/zoo.py": "random weights from a seed, inside fork_rng: modules draw them from the global generator alone",
            "methods/foreign.py": "other libraries draw from the global generators alone; they are seeded for each image, and given back",
            "testing/state.py": "checks that no answer follows them, and gives them back",
        },
    ),
    "catches everything": (
        r"except Exception|except BaseException|except:",
        {
            "model/weights.py": "damaged files raise a dozen types",
            "images.py": "damaged files raise half a dozen types",
            "evaluating/": "whatever a model, a method or a metric raises is a failure of that one, and the scores of others stay",
            "diagnosing/asking.py": "whatever a model raises is a failure of that image, and what it says of others stays",
            "store/": "what was opened is closed and what was begun is undone, whatever ends it; it is raised again",
            "cli/": "whatever goes wrong is one line for the person, with --traceback to see the rest",
            "testing/suite.py": "whatever a method, a metric or a removal raises is a broken promise of that one",
        },
    ),
    "imports OpenCV, whose two wheels break one another": (
        r"\bcv2\b",
        {"removals/host.py": "imported at first use, the two in-paintings need it"},
    ),
}


@pytest.mark.parametrize("what", ROOMS)
def test_each_kind_of_line_lives_in_its_room(what: str) -> None:
    pattern, allowed = ROOMS[what]
    elsewhere = [path for path in MODULES if not NAMES[path].startswith(tuple(allowed))]
    strays = [f"{NAMES[path]}: {line.strip()}" for path in elsewhere for line in code(path).splitlines() if re.search(pattern, line)]
    assert not strays, f"a line that {what} belongs in {', '.join(allowed) or 'no file'}; found {strays}"


@pytest.mark.parametrize("what", ROOMS)
def test_a_room_that_is_allowed_a_line_has_one(what: str) -> None:
    """An allowance that is no longer needed is taken away, and a pattern that matches nothing guards nothing."""
    pattern, allowed = ROOMS[what]
    unused = [place for place in allowed if not any(NAMES[path].startswith(place) and re.search(pattern, code(path)) for path in MODULES)]
    assert not unused, f"{unused} hold no line that {what} any more"


def test_weights_are_read_without_running_anything() -> None:
    calls = [
        ast.unparse(node)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert calls
    assert all("weights_only=True" in call for call in calls), calls


def test_nothing_remote_is_trusted() -> None:
    for path in MODULES:
        assert not re.search(r"trust_remote_code=(?!False)|use_safetensors=(?!True)|weights_only=(?!True)", code(path)), NAMES[path]


# Budgets ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=NAMES.get)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=NAMES.get)
def test_a_function_has_at_most_40_lines(path: Path) -> None:
    long = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = 0 if not body or node.end_lineno is None else node.end_lineno - body[0].lineno + 1
            if lines > 40:
                long[node.name] = lines
    assert not long


def _docstring_lines(path: Path) -> list[str]:
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, described)]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def test_at_least_55_percent_of_the_lines_are_code() -> None:
    """Code lines as a reader meets them: what is neither blank, comment nor docstring."""
    total = written = 0
    for path in MODULES:
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = sum(line.strip().startswith("#") for line in lines)
        written += sum(bool(line.strip()) for line in lines) - comments - len(_docstring_lines(path))
        total += len(lines)
    assert written / total >= 0.55, f"{written} of {total}"


def test_at_most_10_percent_of_docstring_lines_repeat_another() -> None:
    """A contract is written once, on the base."""
    lines = [line for path in MODULES for line in _docstring_lines(path)]
    repeated = [line for line, times in Counter(lines).items() for _ in range(times - 1)]
    assert len(repeated) <= 0.1 * len(lines), Counter(repeated).most_common(5)


# What must not be found ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=NAMES.get)
def test_nothing_is_left_to_be_done(path: Path) -> None:
    words = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r"|raise NotImplementedError")
    assert not words.search(path.read_text(encoding="utf-8"))


def _own_files() -> list[Path]:
    """Every file of the project that is text: what git keeps, or all of the known folders where there is no git."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=False)
        if listed.returncode == 0:
            return [ROOT / name for name in listed.stdout.decode().split("\0") if name and _is_text(ROOT / name)]
    folders = [PACKAGE, *(ROOT / name for name in ("tests", "benchmarks", ".ci"))]
    found = [path for folder in folders for path in folder.rglob("*")]
    return [path for path in [*found, *ROOT.glob("*.md"), *ROOT.glob("*.toml")] if _is_text(path)]


def _is_text(path: Path) -> bool:
    """Not pictures, weights, what Python compiled, nor the damaged files that tests are made of."""
    suffixes = (".safetensors", ".png", ".jpg", ".pyc")
    return path.is_file() and path.suffix not in suffixes and not {"__pycache__", "finds"} & set(path.parts)


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(r"(?<![\w.:<%/}-])/(?:work|root|opt|home|Users)/\w")
    files = _own_files()
    assert PACKAGE / "errors.py" in files
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()[:100]}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if place.search(line)
    ]
    assert not wrong, "\n".join(wrong)


# The tests themselves --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_an_expected_error_is_told_apart_by_its_message(path: Path) -> None:
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.raises", "raises")]
    told = [call for call in calls if ast.unparse(call) != "pytest.raises(SystemExit)"]  # whose code is what a test looks at
    bare = [f"line {call.lineno}: {ast.unparse(call)}" for call in told if not any(keyword.arg == "match" for keyword in call.keywords)]
    assert not bare, "pytest.raises without match=: " + "; ".join(bare)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_no_comparison_is_thrown_away(path: Path) -> None:
    """`np.allclose(a, b)` alone on a line checks nothing; neither does a comparison."""
    called = re.compile(r"(.*\.)?(allclose|array_equal|isclose)|\w+\.equal")
    dropped = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr)
        and (isinstance(node.value, ast.Compare) or (isinstance(node.value, ast.Call) and called.fullmatch(ast.unparse(node.value.func))))
    ]
    assert not dropped


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_no_test_is_written_twice_under_one_name(path: Path) -> None:
    """The second would silently replace the first."""
    for scope in ast.walk(tree(path)):
        if isinstance(scope, ast.Module | ast.ClassDef):
            names = Counter(node.name for node in scope.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test"))
            assert [name for name, times in names.items() if times > 1] == []
