from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from idanim.config import (
    CONF_DIR,
    Run,
    built_or_plain,
    check_overrides,
    missing_keys,
    replace_values,
    restore,
    storable,
)
from idanim.plain_values import name_jobs_by_what_varies, plain_arguments
from idanim.types import IdanimError

AWKWARD = [
    "A man, smiling (close-up), f=1.8",
    "a, b",
    "costs ${5} or $HOME",
    'it\'s "quoted"',
    "back\\slash\\",
    "日本語, é, 🙂",
    "[not a list",
    "{a: b}",
    "007",
    "1e5",
    "true",
    "~/films, of=mine (2024)/é",
    "a:b@c;d&e|f<g>h#i%j*k!",
    "ends with a colon:",
    "two  blanks",
    "x=y=z",
]


def parsed(argument: str) -> Any:
    override = OverridesParser.create().parse_override(argument)
    return override.value()


def composed(arguments: list[str], config_name: str = "curate") -> Any:
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose(config_name, overrides=plain_arguments(arguments))
        return cfg.input if config_name == "curate" else cfg


@pytest.mark.parametrize("text", AWKWARD)
def test_text_keys_arrive_letter_by_letter(text: str) -> None:
    assert composed([f"input={text}", "output=x"]) == str(Path(text).expanduser())


@pytest.mark.parametrize(
    "url", ["https://host:80/train-{000000..000004}.tar", "s3://bucket/a b.tar", "https://host/a.tar?x=1,2&y=%7B%7D#z"]
)
def test_urls_of_shards_are_taken_letter_by_letter(url: str) -> None:
    assert composed([f"data.shards={url}"], "train").data.shards == url
    both = ["https://host/{0..4}.tar", "s3://bucket/b.tar"]
    assert composed([f"data.shards=[{','.join(both)}]"], "train").data.shards == both


@pytest.mark.parametrize("text", [t for t in AWKWARD if t not in ("007", "1e5", "true", "{a: b}") and "${" not in t])
def test_other_keys_take_what_the_grammar_refuses_as_text(text: str) -> None:
    assert parsed(plain_arguments([f"identity.pattern={text}"])[0]) == text


@pytest.mark.parametrize(
    ("argument", "value"),
    [("a=3", 3), ("a=1e-4", 1e-4), ("a=true", True), ("a=[1,2]", [1, 2]), ("a={b: 1}", {"b": 1}), ("a=null", None)],
)
def test_typed_values_keep_their_type(argument: str, value: Any) -> None:
    assert plain_arguments([argument]) == [argument]
    assert parsed(argument) == value


@pytest.mark.parametrize("text", ["'Til dawn, a man", '"Yes", she said', "it's", "$HOME/${x}"])
def test_prose_with_quotes_and_dollars(text: str) -> None:
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("curate", overrides=plain_arguments([f"captions.text={text}", "input=x"]))
        assert cfg.captions.text == text


@pytest.mark.parametrize("key", ["input", "output", "data.shards"])
def test_an_empty_path_is_not_this_folder(key: str) -> None:
    with pytest.raises(IdanimError, match=f"{key}= is empty"):
        plain_arguments([f"{key}="])


def test_quoting_twice_changes_nothing() -> None:
    once = plain_arguments([f"input={text}" for text in AWKWARD])
    assert plain_arguments(once) == once


def test_lists_whose_items_the_grammar_refuses() -> None:
    (argument,) = plain_arguments(["prompts=[A man (close-up), another; f=1.8]"])
    assert parsed(argument) == ["A man (close-up)", "another; f=1.8"]


def test_lists_of_paths_stay_lists() -> None:
    assert plain_arguments(["data.shards=[a,b]"]) == ["data.shards=[a,b]"]


def test_commas_sweep_only_in_a_sweep_and_only_without_a_blank() -> None:
    assert plain_arguments(["-m", "adapter.scale=0.5,1.0"]) == ["-m", "adapter.scale=0.5,1.0"]
    assert parsed(plain_arguments(["adapter.scale=0.5,1.0"])[0]) == "0.5,1.0"
    assert parsed(plain_arguments(["-m", "captions.text=one, two"])[1]) == "one, two"


def test_jobs_are_named_by_what_varies() -> None:
    arguments = ["-m", "adapter.scale=0.5,1.0", 'data.shards="/a b/c"', "reference=random,multi", "trainer=cpu"]
    (override,) = name_jobs_by_what_varies(arguments)
    assert parsed(override) == ["data.shards", "trainer"]
    assert name_jobs_by_what_varies(arguments[1:2]) == []


def test_jobs_over_signed_urls_are_told_apart_without_a_signature() -> None:
    folders = []
    for secret in ("SECRET1", "SECRET2"):
        job = [f'data.shards=["https://host/a.tar?sig={secret}"]', "adapter.scale=0.5", "+trainer.x=1"]
        shared = "hydra.job.config.override_dirname.exclude_keys=[trainer.x]"
        with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            overrides = [*job, "logger=wandb", shared, "hydra.mode=MULTIRUN"]
            cfg = hydra.compose("train", overrides=overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        try:
            folders.append(cfg.hydra.sweep.subdir)
            assert list(cfg.logger.tags) == [
                'data.shards=["https://host/a.tar?…"]',
                "adapter.scale=0.5",
                "logger=wandb",
            ]
        finally:
            HydraConfig.instance().cfg = None
    one, other = (
        re.fullmatch(r'adapter\.scale=0\.5,data\.shards=\["https://host/a\.tar"\]~(\w{8}),.*', f) for f in folders
    )
    assert one
    assert other
    assert one[1] != other[1]


def test_another_name_of_a_key() -> None:
    assert plain_arguments(["reference=a b.jpg"], aliases={"reference": "references"}) == ['references="a b.jpg"']


def test_positional_argument() -> None:
    assert parsed(plain_arguments(["some folder, really"], positional="input")[0]) == "some folder, really"


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("trainer.max_step=3", "trainer.max_steps"),
        ("adaptor.scale=1", "adapter.scale"),
        ("experiment=random_rf", "random_ref"),
        ("reference=randm", "random"),
        ("outptu=x", "output"),
        ("backbone=tini", "tiny"),
    ],
)
def test_a_wrong_key_or_group_names_the_right_one(argument: str, hint: str) -> None:
    with pytest.raises(IdanimError, match=hint):
        check_overrides("train", [argument])


def test_right_keys_pass() -> None:
    right = ["experiment=random_ref", "reference=random,first_frame", "adapter.scale=0.5", "+new.key=1"]
    check_overrides("train", right)
    check_overrides("train", ["backbone=tiny,animatediff", "backbone.model.path=x"])
    check_overrides("train", ["reference=glob(*)"])


# ------------------------------------------------------------------------------- every config, every option


def options() -> list[tuple[str, list[str]]]:
    programs = sorted(path.stem for path in CONF_DIR.glob("*.yaml"))
    found: list[tuple[str, list[str]]] = [(name, []) for name in programs]
    for name in programs:
        text = (CONF_DIR / f"{name}.yaml").read_text()
        for group in sorted(path for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra"):
            if f"- {group.name}:" in text:
                found += [(name, [f"{group.name}={option.stem}"]) for option in sorted(group.glob("*.yaml"))]
    return found


def targets(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        inner = [found for value in node.values() for found in targets(value)]
        return [node, *inner] if "_target_" in node else inner
    if isinstance(node, list):
        return [found for value in node for found in targets(value)]
    return []


GIVEN_BY_CODE = {
    "idanim.models.adapter.FaceAdapter": {"backbone", "feature_dim"},
    "idanim.models.face_id.face_id_adapter": {"backbone", "feature_dim"},
    "idanim.data.datamodule.ClipDataModule": {"encoder", "strategy", "reference_size"},
    "idanim.training.module.AdapterTraining": {"backbone", "encoder", "adapter", "identity_loss", "stored_config"},
    "idanim.training.loggers.wandb_logger": {"output"},
    "idanim.training.loggers.no_logger": {"output"},
    "torch.optim.AdamW": {"params"},
}


@pytest.mark.parametrize(("program", "overrides"), options(), ids=lambda v: "-".join(v) if isinstance(v, list) else v)
def test_every_config_composes_and_binds_to_its_signatures(program: str, overrides: list[str]) -> None:
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose(program, overrides=overrides)
        for key in missing_keys(OmegaConf.to_container(cfg)):
            OmegaConf.update(cfg, key, "given")
        config = OmegaConf.to_container(cfg, resolve=True)
    found = targets(config)
    assert found or program in ("compare", "tune")
    for node in found:
        target = hydra.utils.get_object(node["_target_"])
        arguments = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
        arguments |= dict.fromkeys(GIVEN_BY_CODE.get(node["_target_"], ()))
        if target.__module__ == "datetime":  # it has no signature
            target(**arguments)
            continue
        signature = inspect.signature(target)
        if node.get("_partial_"):
            signature.bind_partial(**arguments)
        else:
            signature.bind(**arguments)


def test_every_experiment_says_how_to_run_it() -> None:
    for path in (CONF_DIR / "experiment").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert lines[1].startswith(f"# python train.py experiment={path.stem}"), path
        assert len([line for line in lines if not line.startswith("#")]) <= 15, path


# ----------------------------------------------------------------------------------- stored configurations


def make_run(overrides: list[str]) -> Run:
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("train", overrides=["data.shards=x", *overrides], return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        choices = {k: v for k, v in choices.items() if isinstance(v, str) and not k.startswith("hydra")}
        config = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=True)
    return Run(config, Path("out"), choices, "sha")


def test_a_stored_configuration_comes_back() -> None:
    changes = ["adapter.num_queries=7", "reference=multi", "reference.num_references=2", "seed=5"]
    run = make_run(["backbone=tiny", *changes])
    restored = restore("train", storable(run))
    assert restored["adapter"]["num_queries"] == 7
    assert restored["reference"] == run.config["reference"]
    assert restored["seed"] == 5
    assert restored["backbone"]["model"]["_target_"] == "idanim.models.tiny.tiny_backbone"


def test_a_path_inside_the_package_comes_back_and_can_be_replaced() -> None:
    shipped = restore("train", storable(make_run([])))["adapter"]["init"]
    assert Path(built_or_plain(shipped)).name == "adapter.safetensors"
    own = restore("train", storable(make_run(["adapter.init=own.safetensors"])))["adapter"]["init"]
    assert built_or_plain(own) == "own.safetensors"
    assert restore("train", storable(make_run(["adapter.init=null"])))["adapter"]["init"] is None


def test_overrides_replace_stored_values() -> None:
    stored = storable(make_run(["backbone=tiny"]))
    config = restore("train", stored)
    target = config["backbone"]["model"]["_target_"]
    replace_values(config, {"backbone": {"model": {"seed": 9}}, "seed": 3})
    assert config["backbone"]["model"] == {"_target_": target, "seed": 9}
    assert config["seed"] == 3


def test_nothing_to_build_is_ever_read_from_a_file() -> None:
    stored = storable(make_run([]))
    assert "_target_" not in str(stored)
    stored["values"]["adapter"]["_target_"] = "os.system"
    stored["values"]["backbone"]["model"]["_target_"] = "os.system"
    assert "os.system" not in str(restore("train", stored))


def test_an_unknown_stored_choice_is_an_error() -> None:
    stored = storable(make_run([]))
    stored["choices"]["backbone"] = "removed"
    with pytest.raises(IdanimError, match="backbone=removed, which this version does not have"):
        restore("train", stored)


@pytest.mark.parametrize(
    "choices", [{"backbone.model._target_": "idanim.files.write_text"}, {"+x": "1"}, {"backbone": "../train"}, None]
)
def test_choices_are_nothing_but_options_of_groups(choices: Any) -> None:
    with pytest.raises(IdanimError, match="stored configuration"):
        restore("train", {"choices": choices, "values": {}})


# ------------------------------------------------------------------------------------------- the programs


def run_program(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, check=False, timeout=120)


@pytest.mark.parametrize("program", [["train.py"], ["-m", "idanim.generate"]])
def test_programs_refuse_a_wrong_key_in_words(program: list[str], tmp_path: Path) -> None:
    root = CONF_DIR.parent
    command = [str(root / part) if part.endswith(".py") else part for part in program]
    result = run_program(*command, "outptu=x", cwd=tmp_path)
    assert result.returncode == 1
    assert "did you mean output" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_kind_of_caption_has_a_short_name(tmp_path: Path) -> None:
    result = run_program(
        str(CONF_DIR.parent / "train.py"), "--cfg", "job", "caption=mixed", f"output={tmp_path}", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "  caption: mixed\n" in result.stdout


def test_a_missing_value_is_asked_for(tmp_path: Path) -> None:
    result = run_program("-m", "idanim.curate", f"output={tmp_path / 'o'}", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: input=")  # no line of Hydra's before it
    assert "Traceback" not in result.stderr


def test_settings_of_a_component_that_is_not_chosen_are_refused() -> None:
    with pytest.raises(IdanimError, match="weight: settings of a component that is not chosen"):
        built_or_plain({"weight": 0.4})
    with pytest.raises(
        IdanimError, match=r"identity_loss: weight: settings .*; choose identity_loss=arcface, or leave"
    ):
        built_or_plain({"weight": 0.4}, "identity_loss")
    with pytest.raises(IdanimError, match=r"^control: {}: settings .* choose control=rgb or control=scribble, or"):
        built_or_plain({}, "control")
