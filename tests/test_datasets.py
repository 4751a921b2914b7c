"""Packaged data: the loader and the cards (what the data sets give is in test_source_figures)."""

import pytest

from lmmlite.datasets import KINDS, dataset_card, dataset_names, load_dataset

ROWS = {
    "cake": 270, "dyestuff": 30, "dyestuff2": 30, "exam": 4059, "growth": 897, "insteval": 73421, "labs": 1000,
    "machines": 54, "oats": 72, "orthodont": 108, "pastes": 60, "penicillin": 144, "politeness": 84, "rail": 18,
    "schools": 1200, "sleepstudy": 180,
}  # fmt: skip


# Loader and cards


def test_every_data_set_has_its_rows():
    assert {name: len(load_dataset(name)) for name in dataset_names()} == ROWS


@pytest.mark.parametrize("name", sorted(ROWS))
def test_card_describes_the_table(name):
    card, data = dataset_card(name), load_dataset(name)
    assert list(data.columns) == list(card.columns)
    assert card.kind in KINDS
    assert all([card.title, card.description, card.source, card.licence, *card.columns.values(), *card.notes])
    for column, levels in card.factors.items():
        assert tuple(data[column].cat.categories) == levels
        assert data[column].notna().all()
        assert set(data[column]) == set(levels)
    text, html = str(card), card._repr_html_()
    for column in card.columns:
        assert column in text
        assert f"<code>{column}</code>" in html
    assert KINDS[card.kind] in text


@pytest.mark.parametrize("name", ["schools", "politeness", "labs", "growth"])
def test_built_data_say_so(name):
    assert dataset_card(name).kind == ("simulated" if name == "growth" else "reconstructed")
    assert "tools/datasets/build_" in dataset_card(name).source


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="'sleepstudy'"):
        load_dataset("Sleep_study")
    with pytest.raises(ValueError, match="politeness"):
        dataset_card("zzz")


def test_a_loaded_table_is_the_callers_own():
    mine = load_dataset("rail")
    mine.loc[0, mine.columns[-1]] = None
    assert load_dataset("rail").notna().all(axis=None)
