"""The absorption test finds absorption where it was planted, and none where a letter has one latent."""

import string

import pytest
import torch

pytestmark = pytest.mark.usefixtures("sae")

D, LATENTS = 40, 60


@pytest.fixture(scope="module")
def planted():
    """Words = direction of the letter + direction of the word; latents 0 to 25 are the letters', 30 and on those of words."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    letter = torch.arange(780) % 26
    own = torch.randint(14, (780,), generator=generator) + 26
    tokens = basis[letter] + 0.3 * basis[own]
    train = torch.arange(780) % 4 > 0
    return tokens, letter, own, train, basis


def dense_of(letter, own, absorbing=()):
    """Each word fires its letter's latent, except that `absorbing` words of letter 0 fire one of their own in its place."""
    dense = torch.zeros(len(letter), LATENTS)
    dense[torch.arange(len(letter)), letter] = 1.0
    dense[torch.arange(len(letter)), own + 4] = 0.3
    for word in absorbing:
        dense[word, 0] = 0
        dense[word, 55] = 1.0
    return dense


def decoder_of(basis):
    """Latent 55 is a word's, with the direction of letter 0 in it."""
    decoder = torch.zeros(LATENTS, D)
    decoder[:26] = basis[:26]
    decoder[30:44] = basis[26:40]
    decoder[55] = (basis[0] + 0.5 * basis[39]) / (1 + 0.25) ** 0.5
    return decoder


def test_a_letter_with_one_latent_is_neither_split_nor_absorbed(planted):
    from absorption import absorbed, main_latents  # noqa: PLC0415 - from the folder of the experiment

    _, letter, own, train, basis = planted
    dense = dense_of(letter, own)
    for number in (0, 7):
        assert main_latents((dense != 0)[train], letter[train] == number) == [number]
        taken, silent = absorbed(dense[letter == number], decoder_of(basis), basis[number], [number])
        assert not taken.any()
        assert not silent.any()


def test_absorbed_words_are_counted_and_words_without_any_latent_are_only_missed(planted):
    from absorption import absorbed  # noqa: PLC0415 - from the folder of the experiment

    _, letter, own, _, basis = planted
    mine = (letter == 0).nonzero().squeeze(-1)
    dense = dense_of(letter, own, absorbing=mine[:5])
    dense[mine[5], :26] = 0  # nothing says its letter
    taken, silent = absorbed(dense[mine], decoder_of(basis), basis[0], [0])
    assert taken.tolist() == [True] * 5 + [False] * 25
    assert silent.tolist() == [True] * 6 + [False] * 24


def test_a_split_letter_has_its_latents_and_no_more():
    from absorption import main_latents  # noqa: PLC0415 - from the folder of the experiment

    letter = torch.arange(200) < 50
    fires = torch.zeros(200, 6, dtype=torch.bool)
    fires[:30, 2] = True  # three fifths of the letter
    fires[30:48, 4] = True  # most of the rest
    fires[48:49, 5] = True  # one word: too little
    fires[::2, 1] = True
    assert main_latents(fires, letter) == [2, 4]
    assert main_latents(torch.zeros(200, 6, dtype=torch.bool), letter) == []


def test_f1_is_that_of_scikit_learn():
    from absorption import f1  # noqa: PLC0415 - from the folder of the experiment
    from sklearn.metrics import f1_score  # noqa: PLC0415 - one test

    generator = torch.Generator().manual_seed(0)
    fires, letter, said = (torch.rand(300, *n, generator=generator) < 0.3 for n in ((5,), (), ()))
    expected = [f1_score(letter, fires[:, i] | said) for i in range(5)]
    torch.testing.assert_close(f1(fires, letter, said), torch.tensor(expected, dtype=torch.float32))


def test_the_probe_reads_the_letter_of_words_that_it_has_not_seen(planted):
    from absorption import Words, fit_probe  # noqa: PLC0415 - from the folder of the experiment

    tokens, letter, _, train, basis = planted
    probe = fit_probe(Words(tokens, letter, train))
    assert probe.right.all()
    cosines = torch.nn.functional.cosine_similarity(probe.direction, basis[:26] - basis[:26].mean(0))
    assert cosines.min() > 0.95


def test_first_occurrences_are_the_first_and_words_are_whole():
    from absorption import first_occurrences, is_word  # noqa: PLC0415 - from the folder of the experiment

    token = torch.tensor([5, 3, 5, 5, 3, 9, 5])
    assert sorted(first_occurrences(token, 2).tolist()) == [0, 1, 2, 4, 5]
    assert [is_word(name) for name in ("word", "##ing", "a", "x2", "[CLS]", "naïve", string.ascii_lowercase)] == [
        True, False, False, False, False, False, True,
    ]  # fmt: skip


def test_the_tables_of_the_readme_are_those_of_the_files():
    from features import HERE, table, tables  # noqa: PLC0415 - from the folder of the experiment

    assert tables(HERE) in (HERE / "README.md").read_text()
    lines = [{"row": "a", "seed": str(i), "metric": "f1", "value": str(i)} for i in range(3)]
    assert table("t", {"f1": "F1"}, lines).splitlines()[-1] == "| a | 3 | 1.000 |"
