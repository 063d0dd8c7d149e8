"""Files from strangers execute no code."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pooling_words import words

from sparsek.cli import ALLOWED, run
from sparsek.cli._allowed import asked_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

EVIL = """
import pathlib
pathlib.Path("imported").touch()

class Pool:
    pass
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """A folder to run in, and a module of a stranger that can be imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "evil_module.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "argv", ["sparsek"])
    yield
    sys.modules.pop("evil_module", None)


def spec(path, **init_args):
    return {"class_path": path, "init_args": init_args} if init_args else {"class_path": path}


SHELL = "touch executed"
HOSTILE = {
    "os.system as a model": {"model": spec("os.system", command=SHELL)},
    "Popen as a callback": {"trainer": {"callbacks": [spec("subprocess.Popen", args=SHELL, shell=True)]}},
    "eval as a pooling": {"model": {"init_args": {"pooling": spec("builtins.eval", source="open('executed', 'w')")}}},
    "exec as a logger": {"trainer": {"logger": spec("builtins.exec", source="open('executed', 'w')")}},
    "os.system by another road": {"model": spec("torch.nn.modules.module.os.system", command=SHELL)},
    "sys of the command line": {"data": spec("sparsek.cli._cli.sys.exit")},
    "Popen of a library": {"data": {"init_args": {"source": spec("torch.utils.cpp_extension.subprocess.Popen", args=SHELL)}}},
    "torch.load": {"model": {"init_args": {"head": spec("torch.load", f="payload")}}},
    "torch.hub": {"model": spec("torch.hub.load", repo_or_dir="x", model="y", source="local")},
    "functools.partial": {"model": {"init_args": {"pooling": spec("functools.partial", func="os.system")}}},
    "a callable of a callback": {"trainer": {"callbacks": [
        spec("lightning.pytorch.callbacks.LambdaCallback", setup="os.system")]}},
    "a module that runs when it is imported": {"model": {"init_args": {"pooling": spec("evil_module.Pool")}}},
    "the module by a plain string": {"model": {"init_args": {"pooling": "evil_module.Pool"}}},
    "pickle.loads": {"model": {"init_args": {"measures": {"x": spec("pickle.loads")}}}},
    "the parser itself": {"model": {"init_args": {"pooling": spec("jsonargparse.set_parsing_settings")}}},
    "allow in the file": {"allow": ["evil_module"], "model": {"init_args": {"pooling": spec("evil_module.Pool")}}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_is_refused_before_anything_happens(name, capsys):
    Path("bad.yaml").write_text(yaml.safe_dump(HOSTILE[name]))
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as caught:
        run(words("fit", "-c", "bad.yaml"))
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err
    assert sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts) == before
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        'model: !!python/object/apply:os.system ["touch executed"]',
        "model: !!python/name:os.system",
        "a: !!python/module:evil_module",
    ],
)
def test_tags_of_yaml_make_no_objects(text):
    Path("bad.yaml").write_text(text)
    with pytest.raises(SystemExit):
        run(words("fit", "-c", "bad.yaml"))
    assert not Path("executed").exists()
    assert "evil_module" not in sys.modules


def test_the_same_words_on_the_command_line_are_refused_too():
    for word in ("--model=os.system", "--trainer.logger=subprocess.Popen", "--model.init_args.pooling=builtins.eval"):
        with pytest.raises(SystemExit):
            run(words("fit", word))
    assert not Path("executed").exists()


def test_the_twin_without_the_rule_would_import(monkeypatch):
    """The sabotaged twin: the module is imported where nothing is denied."""
    Path("bad.yaml").write_text(yaml.safe_dump(HOSTILE["a module that runs when it is imported"]))
    with pytest.raises(SystemExit):
        run(words("fit", "-c", "bad.yaml", "--allow", "evil_module"))  # asked for: imported, and no pooling after all
    assert Path("imported").exists()


MINE = """
from sparsek.nn import AttentionPool

class Pool(AttentionPool):
    pass
"""


@pytest.mark.parametrize(
    "more", [["--allow", "evil_module"], ["--allow=evil_module"], ["--model.init_args.pooling=evil_module.Pool"]]
)
def test_what_is_asked_for_is_made_and_nothing_is_asked_for_later(more):
    Path("modules/evil_module.py").write_text(MINE)
    pooling = {"model": {"init_args": {"pooling": spec("evil_module.Pool", dim=16)}}}
    Path("mine.yaml").write_text(yaml.safe_dump(pooling))
    with pytest.raises(SystemExit):
        run(words("fit", "-c", "mine.yaml", "--trainer.fast_dev_run=true"))
    cli = run(words("fit", "-c", "mine.yaml", *more, "--trainer.fast_dev_run=true"))
    assert type(cli.model.pooling).__name__ == "Pool"
    assert "allow" not in cli.config.fit
    with pytest.raises(SystemExit):
        run(words("fit", "-c", "mine.yaml", "--trainer.fast_dev_run=true"))


@pytest.mark.parametrize("path", ALLOWED)
def test_every_allowed_package_is_there(path):
    module, _, name = path.rpartition(".")
    assert importlib.util.find_spec(path) if module != "torch._C" else hasattr(torch._C, name)


def test_names_of_files_are_not_asked_for():
    assert asked_for(["fit", "-c", "evil/os_like.yaml", "--config=theirs.yaml", "--ckpt_path", "a.ckpt"]) == []
    assert asked_for(["fit", "--data.init_args.folder=/tmp/a.b/c.d", "--x", "0.5"]) == []
    assert asked_for(['--x={"class_path": "mine.parts.Pool"}']) == ["mine"]


def test_a_hostile_checkpoint_runs_nothing(capsys):
    class Hostile:
        def __reduce__(self):
            return subprocess.check_call, (["touch", "executed"],)

    torch.save({"state_dict": {}, "code": Hostile()}, "bad.ckpt")
    for command in ("fit", "validate", "test"):
        with pytest.raises(SystemExit):
            run(words(command, "--ckpt_path=bad.ckpt"))
        assert "'bad.ckpt' cannot be read as a checkpoint" in capsys.readouterr().err
    assert not Path("executed").exists()
