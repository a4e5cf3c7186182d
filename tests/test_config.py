"""Configuration: strict, layered, and back from TOML to the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from twoviews.config import Recipe, make_recipe, parse_assignment, read_recipe_file
from twoviews.errors import UsageError
from twoviews.methods import build_method, method_options
from twoviews.recipes import load_recipe, recipe_names, recipe_summary, recipe_text


def refused(*layers: dict[str, Any], origin: str = "here") -> str:
    with pytest.raises(UsageError) as caught:
        make_recipe(*layers, origin=origin)
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.lrr=1", r"unknown key 'optim\.lrr'; did you mean 'lr'\?"),
        ("optm.lr=1", r"unknown key 'optm'; did you mean 'optim'\?"),
        ("train.batchsize=8", r"unknown key 'train\.batchsize'; did you mean 'batch_size'\?"),
        ("data.zzzz=8", r"unknown key 'data\.zzzz'; known here: source, image_size,"),
        ("train.epochs=-1", r"train\.epochs = -1: input should be greater than or equal to 1"),
        ("train.epochs=1.5", r"train\.epochs = 1\.5: input should be a valid integer"),
        ("train.minutes=0", r"train\.minutes = 0: input should be greater than 0"),
        ("train.batch_size=1", r"train\.batch_size = 1: .*greater than or equal to 2"),
        ("train.seed=-1", r"train\.seed = -1: "),
        ("train.seed=2147483648", r"train\.seed = 2147483648: "),
        ("train.precision=fp16", r"train\.precision = 'fp16': input should be 'auto', 'fp32' or 'bf16'"),
        ("optim.lr=nan", r"optim\.lr = nan: input should be a finite number"),
        ("optim.lr=1e999", r"optim\.lr = inf: input should be a finite number"),
        ("optim.lr=-1e-3", r"optim\.lr = -0\.001: "),
        ("optim.lr=fast", r"optim\.lr = 'fast': "),
        ("optim.warmup=1.1", r"optim\.warmup = 1\.1: "),
        ("optim.name=adamax", r"optim\.name = 'adamax': input should be 'adamw', 'adam', 'sgd' or 'lars'"),
        ("optim.weight_decay=inf", r"optim\.weight_decay = inf: "),
        ("data.image_size=2", r"data\.image_size = 2: "),
        ("data.channels=33", r"data\.channels = 33: "),
        ("data.pages=all", r"data\.pages = 'all': "),
        ("views.blur=2", r"views\.blur = 2: "),
        ("evaluate.lrs=[1e-3, nan]", r"evaluate\.lrs\.1 = nan: "),
        ("encoder.stem=big", r"encoder\.stem = 'big': "),
        ("train.bn_group=1", r"train\.bn_group = 1: input should be greater than or equal to 2 or 'global'$"),
        ("train.micro_batch=1", r"train\.micro_batch = 1: input should be greater than or equal to 2 or 'auto'$"),
        ("views.local_scale=[0.1, -1]", r"views\.local_scale\.1 = -1: input should be greater than 0$"),
    ],
)
def test_wrong_values_are_named(assignment: str, message: str) -> None:
    assert re.search("^here: " + message, refused(parse_assignment(assignment)))


def test_good_values_pass_as_given() -> None:
    texts = [
        "optim.lr=1e-2",
        "optim.name=lars",
        "train.compile=true",
        "views.policy='none'",
        "views.policy=none",
        "evaluate.lrs=[0.5, 0.25]",
    ]
    recipe = make_recipe(*[parse_assignment(text) for text in texts])
    assert recipe.optim.lr == 0.01
    assert recipe.optim.name == "lars"
    assert recipe.train.compile is True
    assert recipe.views.policy == "none"
    assert recipe.evaluate.lrs == (0.5, 0.25)


@pytest.mark.parametrize("text", ["", "lr=1", "optim.lr", "a.b.c=1", ".lr=1", "optim.=1", "=1"])
def test_set_needs_section_key_and_value(text: str) -> None:
    with pytest.raises(UsageError, match=f"cannot read {re.escape(repr(text))}: write --set section.key=value"):
        parse_assignment(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=1.5", 1.5),
        ("a.b=true", True),
        ("a.b= word ", "word"),
        ("a.b='1'", "1"),
        ("a.b=x=y", "x=y"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=", ""),
    ],
)
def test_set_reads_toml_and_else_text(text: str, value: object) -> None:
    parsed = parse_assignment(text)["a"]["b"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_later_layers_win_and_none_says_nothing() -> None:
    recipe = make_recipe({"optim": {"lr": 1.0, "momentum": 0.5}}, {"optim": {"lr": 2.0, "momentum": None}})
    assert (recipe.optim.lr, recipe.optim.momentum) == (2.0, 0.5)


@pytest.mark.parametrize("stronger", ["epochs", "minutes", "steps"])
@pytest.mark.parametrize("weaker", ["epochs", "minutes", "steps"])
@pytest.mark.parametrize("between", [{}, {"train": {"epochs": None, "minutes": None}}, {"optim": {"lr": 1.0}}])
def test_the_strongest_length_replaces_the_others(weaker: str, stronger: str, between: dict[str, Any]) -> None:
    recipe = make_recipe({"train": {weaker: 7}}, between, {"train": {stronger: 3}})
    given = {name: getattr(recipe.train, name) for name in ("epochs", "minutes", "steps")}
    assert {name: value for name, value in given.items() if value is not None} == {stronger: 3}


def test_two_lengths_in_one_place_are_refused() -> None:
    text = refused({"train": {"epochs": 1, "minutes": 2}})
    assert "give one of epochs, minutes and steps, not epochs and minutes" in text


@pytest.mark.parametrize(
    "layers", [({"train": 3},), ({"train": {"steps": 1}}, {"train": 3}), ({"train": 3}, {"train": {"steps": 1}})]
)
def test_a_table_that_is_a_value(layers: tuple[dict[str, Any], ...]) -> None:
    assert "train" in refused(*layers)


def test_toml_round_trip(tmp_path: Path) -> None:
    recipe = make_recipe(
        {
            "data": {"source": 'a "quoted" \\ name\n', "image_size": 8},
            "method": {"name": "simclr", "temperature": 0.25, "projector_layers": 3},
            "train": {"steps": 3},
            "evaluate": {"lrs": [0.1, 0.3]},
        }
    )
    path = tmp_path / "config.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    again = make_recipe(read_recipe_file(path))
    assert again == recipe
    assert again.method.options == {"temperature": 0.25, "projector_layers": 3}
    assert again != Recipe()


def test_a_recipe_is_immutable() -> None:
    with pytest.raises(Exception, match="frozen"):
        Recipe().train.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no recipe file at"),
        (b"[train\n", "is not a readable TOML recipe: .*line 1"),
        (b"[train]\nname = '\xff'\n", "is not a readable TOML recipe"),
        (b"train: !!python/object:os.system\n", "is not a readable TOML recipe"),
    ],
)
def test_recipe_file_errors(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_path_in_text_is_a_file_and_a_name_is_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nsteps = 4\n", encoding="utf-8")
    assert load_recipe(str(path)) == {"train": {"steps": 4}}
    with pytest.raises(UsageError, match="unknown recipe 'digit': did you mean 'digits'"):
        load_recipe("digit")


def test_what_is_no_recipe_file_is_told_what_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("[train]\nsteps = 4\n", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("mine.txt", str(tmp_path / "mine.txt"), "runs/a"):
        with pytest.raises(UsageError, match=f"unknown recipe '{name}': a recipe file ends in .toml, that of a run is"):
            load_recipe(name)
    for folder in ("run", Path("run"), str(tmp_path / "run")):
        with pytest.raises(UsageError, match=r"is a folder: give a TOML file, of a run .*run/config\.toml"):
            load_recipe(folder)
    assert load_recipe("digits")["method"]["name"] == "simclr"  # a name that is known is one


def test_recipes_that_the_docs_promise() -> None:
    assert {"default", "digits", "cifar10-cpu"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_valid_and_say_what_they_are(name: str) -> None:
    from torch import nn

    from twoviews.jobs.decide import check_names

    recipe = make_recipe(load_recipe(name), origin=name)
    check_names(recipe)
    encoder = nn.Identity()
    encoder.num_features = 8  # type: ignore[assignment]
    build_method(recipe.method.name, encoder, options=recipe.method.options)
    assert recipe.train.seed == 0
    assert recipe_summary(name)
    assert re.search(r"^# command +twoviews ", recipe_text(name), re.MULTILINE)


class TestMethodOptions:
    """What `method.*` may hold is the constructor's business."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperatur": 0.2}, "unknown option of method simclr 'temperatur': did you mean 'temperature'"),
            ({"temperature": -1.0}, "method.temperature = -1.0: Input should be greater than 0"),
            ({"temperature": float("nan")}, "method.temperature = nan: "),
            ({"temperature": "warm"}, "method.temperature = 'warm': "),
            ({"projector_layers": 4}, "method.projector_layers = 4: "),
            ({"projector_dim": 1}, "method.projector_dim = 1: "),
            ({"projector_width": 0}, "method.projector_width = 0: "),
            ({"encoder": 1}, "unknown option of method simclr 'encoder'"),
        ],
    )
    def test_wrong(self, options: dict[str, Any], message: str) -> None:
        from torch import nn

        encoder = nn.Identity()
        encoder.num_features = 8  # type: ignore[assignment]
        with pytest.raises(UsageError, match=message):
            build_method("simclr", encoder, options=options)

    def test_unknown_method(self) -> None:
        with pytest.raises(UsageError, match="unknown method 'simclrr': did you mean 'simclr'"):
            method_options("simclrr")

    @pytest.mark.parametrize(("name", "near"), [("SimCLR", "simclr"), ("MoCo-v3", "moco_v3"), ("VICReg", "vicreg")])
    def test_names_as_papers_write_them(self, name: str, near: str) -> None:
        with pytest.raises(UsageError, match=f"unknown method '{name}': did you mean '{near}'"):
            method_options(name)

    def test_options_are_the_keyword_arguments(self) -> None:
        assert method_options("simclr") == {
            "temperature": 0.5,
            "projector_layers": 2,
            "projector_width": None,
            "projector_dim": 128,
            "projector_norm": True,
            "negatives": "all",
        }


def test_lists_may_be_written_with_commas() -> None:
    settings = [
        "evaluate.arms=knn, linear",
        "evaluate.lrs=1e-3,2e-3",
        "evaluate.penalties=3.0",
        "evaluate.labels_per_class=1,10,all",
    ]
    asked = make_recipe(*map(parse_assignment, settings)).evaluate
    assert (asked.arms, asked.lrs, asked.penalties) == (("knn", "linear"), (1e-3, 2e-3), (3.0,))
    assert asked.labels_per_class == "1,10,all"
    with pytest.raises(UsageError, match=r"evaluate\.lrs"):
        make_recipe(parse_assignment("evaluate.lrs=fast,slow"))
