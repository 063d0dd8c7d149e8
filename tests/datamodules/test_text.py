from pathlib import Path

import pytest
import torch

from sparsek.datamodules import Files, Folder, LanguageReference, PythonLibrary, TextDataModule, TorchHeaders
from sparsek.datamodules._batches import EvalBatches, TrainBatches
from sparsek.datamodules._corpus import split_of


def write(root: Path, count: int = 60, suffix: str = ".txt", size: int = 300) -> Path:
    for i in range(count):
        path = root / f"part{i % 3}" / f"file{i}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes((i * 7 + j) % 255 + 1 for j in range(size)))
    return root


@pytest.fixture
def module(tmp_path):
    sources = [Folder("a", str(write(tmp_path / "a"))), Folder("b", str(write(tmp_path / "b", 40, size=250)))]
    return TextDataModule(sources, length=32, batch_size=4, eval_windows=5, seed=3)


def test_a_document_keeps_its_split_whatever_else_there_is():
    names = [f"folder/file{i}.py" for i in range(4000)]
    splits = [split_of(name, 0.1, 0.2) for name in names]
    # 4,000 hashes: 5 standard deviations around the fractions
    for split, fraction in (("val", 0.1), ("test", 0.2), ("train", 0.7)):
        assert abs(splits.count(split) / 4000 - fraction) < 5 * (fraction * (1 - fraction) / 4000) ** 0.5
    assert [split_of(name, 0.1, 0.2) for name in reversed(names)] == splits[::-1]
    assert all(split_of(n, 0.0001, 0.2) == "test" for n, s in zip(names, splits, strict=True) if s == "test")


def test_splits_share_no_document_and_no_copy(tmp_path):
    root = write(tmp_path / "a")
    for i in range(60):  # copies under other names, which hash elsewhere
        (root / f"copy{i}.txt").write_bytes((root / f"part{i % 3}" / f"file{i}.txt").read_bytes())
    streams = TextDataModule([Folder("a", str(root))]).corpus.streams
    documents = {split: set(bytes(stream[0].tolist()).split(b"\0")) - {b""} for split, stream in streams.items()}
    assert sum(map(len, documents.values())) == 60
    assert not documents["train"] & documents["val"]
    assert not documents["train"] & documents["test"]
    assert not documents["val"] & documents["test"]


def test_the_digest_follows_every_byte_and_every_name(tmp_path):
    def digest():
        return TextDataModule([Folder("a", str(tmp_path))]).corpus.digest

    write(tmp_path)
    first = digest()
    assert digest() == first
    file = tmp_path / "part0" / "file0.txt"
    content = file.read_bytes()
    file.write_bytes(b"x" + content[1:])
    assert digest() != first
    file.write_bytes(content)
    assert digest() == first
    file.rename(tmp_path / "part0" / "renamed.txt")
    assert digest() != first


def test_training_batches_depend_on_seed_and_step_alone(module):
    loader, again = module.train_dataloader(), module.train_dataloader()
    assert torch.equal(loader.batch(7).tokens, again.batch(7).tokens)
    assert not torch.equal(loader.batch(7).tokens, loader.batch(8).tokens)
    other = TrainBatches(loader.streams, 4, 32, 10, seed=4)
    assert not torch.equal(loader.batch(7).tokens, other.batch(7).tokens)


def test_a_pass_goes_on_where_the_last_one_ended_and_can_be_resumed():
    streams = [torch.arange(200, dtype=torch.uint8)]
    loader = TrainBatches(streams, 2, 8, 5, seed=0)
    taken = [batch.tokens for _ in range(2) for batch in loader]
    assert len(loader) == 5
    assert torch.equal(torch.stack(taken), torch.stack([loader.batch(i).tokens for i in range(10)]))
    resumed = TrainBatches(streams, 2, 8, 5, seed=0)
    resumed.load_state_dict({"position": 3})
    assert torch.equal(torch.stack([batch.tokens for batch in resumed]), torch.stack(taken[3:5]))
    assert resumed.state_dict() == {"position": 5}


def test_processes_get_batches_of_their_own():
    streams = [torch.arange(200, dtype=torch.uint8)]
    alone = [batch.tokens for batch in TrainBatches(streams, 2, 8, 6, seed=0)]
    pair = [list(TrainBatches(streams, 2, 8, 3, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert all(torch.equal(pair[i % 2][i // 2].tokens, tokens) for i, tokens in enumerate(alone))
    windows = [list(EvalBatches(streams, 2, 8, 9, rank=rank, world_size=2)) for rank in (0, 1)]
    assert sum(len(b.domain) for part in windows for b in part) == 9


def test_rows_are_text_with_its_kind_and_kinds_have_equal_shares(module):
    loader = module.train_dataloader()
    batches = [loader.batch(i) for i in range(250)]
    batch = batches[0]
    assert batch.tokens.shape == (4, 33)
    assert batch.mask.all()
    for row, domain in zip(batch.tokens, batch.domain, strict=True):
        assert bytes(row.tolist()) in bytes(loader.streams[domain].tolist())
    share = torch.cat([b.domain for b in batches]).double().mean()
    assert abs(share - 0.5) < 5 * 0.5 / 1000**0.5  # 1,000 rows, 5 standard deviations


def test_evaluation_windows_are_disjoint_and_the_same_every_time(module):
    first, second = list(module.test_dataloader()), list(module.test_dataloader())
    assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(first, second, strict=True))
    assert sum(len(batch.domain) for batch in first) == 10
    stream = torch.arange(100, dtype=torch.uint8)
    windows = EvalBatches([stream], 3, 30, 10)
    targets = torch.cat([batch.tokens[:, 1:][batch.mask] for batch in windows])
    assert torch.equal(
        targets, stream[1:].long()
    )  # every byte but the first is predicted once; the cut window is padded


def test_sources_that_every_machine_has_hold_the_text_that_they_say():
    python = {document.path: document.content for document in PythonLibrary().documents()}
    assert b"def " in python["argparse.py"]
    assert not any(path.startswith(("test/", "site-packages/")) for path in python)
    english = {document.path: document.content for document in LanguageReference().documents()}
    assert b"statement" in english["assert"]
    headers = {document.path: document.content for document in TorchHeaders().documents()}
    assert b"#pragma once" in headers["c10/core/Device.h"]
    assert not any(path.startswith("ATen/ops/") for path in headers)


def test_folder_takes_suffixes_in_order_and_leaves_out(tmp_path):
    for name in ("b.txt", "a.txt", "c.md", "skip/d.txt", "deep/skip/e.txt", "deep/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    paths = [document.path for document in Folder("x", str(tmp_path), exclude=("skip",)).documents()]
    assert paths == ["a.txt", "b.txt", "deep/f.txt"]
    paths = [d.path for d in Folder("x", str(tmp_path), (".txt", ".md"), exclude=("deep/skip",)).documents()]
    assert paths == ["a.txt", "b.txt", "c.md", "deep/f.txt", "skip/d.txt"]


@pytest.mark.parametrize("root", ["missing", "empty", "file.txt"])
def test_an_empty_or_unreadable_corpus_is_said_before_anything_starts(tmp_path, root):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("not a folder")
    module = TextDataModule([Folder("mine", str(tmp_path / root))])
    with pytest.raises(ValueError, match="text source 'mine'"):
        module.prepare_data()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
        ({"eval_windows": 0}, "eval_windows must be at least 1, got 0"),
        ({"val_fraction": 0.0}, "val_fraction and test_fraction must be above 0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "sum below 1"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextDataModule(**arguments)


@pytest.mark.parametrize("sources", [[], [LanguageReference(), LanguageReference()]])
def test_sources_have_different_names_and_are_at_least_one(sources):
    with pytest.raises(ValueError, match="sources must be at least one, with different names"):
        TextDataModule(sources).prepare_data()


def test_files_are_taken_by_pattern_in_the_order_of_their_names(tmp_path):
    write(tmp_path, 12)
    (tmp_path / "part0" / "other.md").write_bytes(b"left out")
    documents = list(Files("a", [f"{tmp_path}/part1/*.txt", f"{tmp_path}/part0/file0.txt"]).documents())
    assert [path for path, _ in documents] == ["file0.txt", "file1.txt", "file10.txt", "file4.txt", "file7.txt"]
    assert documents[3].content == (tmp_path / "part1" / "file4.txt").read_bytes()


def test_pieces_of_a_file_end_with_lines_and_add_up_to_it(tmp_path):
    content = b"".join(b"verse %d" % i + b"." * (i % 40) + b"\n" for i in range(300)) + b"no line end"
    (tmp_path / "one.txt").write_bytes(content)
    pieces = [document.content for document in Files("a", [f"{tmp_path}/one.txt"], piece=100).documents()]
    assert b"".join(pieces) == content
    assert all(piece.endswith(b"\n") and len(piece) >= 100 for piece in pieces[:-1])
    assert all(len(piece) < 100 + 60 for piece in pieces)
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "one.txt").rename(moved / "one.txt")
    corpora = [TextDataModule([Files("a", [f"{moved}/{name}"], piece=100)]).corpus for name in ("one.txt", "*")]
    assert corpora[0].digest == corpora[1].digest
    assert sum(len(stream) for (stream,) in corpora[0].streams.values()) == len(content) + len(pieces)


def test_bad_files_are_one_clear_error(tmp_path):
    write(tmp_path, 2)
    with pytest.raises(ValueError, match="piece must be at least 1, got 0"):
        Files("a", ["x"], piece=0)
    with pytest.raises(ValueError, match=r"paths of the text source 'a' must each match a file, got '.*none.*'"):
        list(Files("a", [f"{tmp_path}/none*"]).documents())
    (tmp_path / "part1" / "file0.txt").write_bytes(b"again")
    with pytest.raises(ValueError, match="must match files of different names"):
        list(Files("a", [f"{tmp_path}/**/*.txt"]).documents())
