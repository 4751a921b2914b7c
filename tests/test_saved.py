"""Fits in files: what is written comes back, nothing in a file is executed, a damaged one is refused."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from random_models import FORMULAS, random_data

from lmmlite import lmer, load, load_dataset

PARTS = ("fixef", "se", "vcov", "varcorr", "fitted")


def returned(fit, path):
    fit.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = load(path)
    assert np.array_equal(twin.theta, fit.theta)
    assert twin.criterion == pytest.approx(fit.criterion, rel=1e-13)
    for part in PARTS:
        one, other = getattr(fit, part), getattr(twin, part)
        equal = pd.testing.assert_series_equal if isinstance(one, pd.Series) else pd.testing.assert_frame_equal
        equal(one, other, rtol=1e-9, atol=1e-11 * np.abs(fit.design.y).max(), check_index_type=False)
    assert str(twin.summary()) == str(fit.summary())
    assert (twin.formula, twin.reml, twin.n_missing, twin.columns) == (
        fit.formula,
        fit.reml,
        fit.n_missing,
        fit.columns,
    )
    return twin


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("given", ["names", "arrays", "none"])
def test_a_fit_comes_back(formula, given, tmp_path):
    data = random_data(3)
    data.loc[[4, 9], "x"] = np.nan
    given = {"names": {"weights": "w", "offset": "o"}, "arrays": {"weights": data["w"], "offset": data["o"]}}.get(
        given, {}
    )
    fit = lmer(formula, data, reml="z" in formula, **given)
    twin = returned(fit, tmp_path / "fit.npz")
    new = random_data(4).head(5)
    offset = None if fit.design.offset is None else new["o"]
    one, other = (f.predict(new, new_levels="population", offset=offset) for f in (fit, twin))
    np.testing.assert_allclose(one, other, rtol=1e-9)


def kinds(data):
    """The same table with labels of several kinds."""
    labelled = data.set_index(pd.Index([f"row {i}" for i in range(len(data))]))
    two = data.set_index([np.arange(len(data)) % 7, np.arange(len(data)) // 7])
    category = data.assign(
        g=pd.Categorical(data["g"], categories=range(12), ordered=True), f=data["f"].astype("category")
    )
    text = data.assign(g=data["g"].map(lambda i: f"group {i} ü"))
    nullable = data.assign(x=data["x"].astype("Float64"), g=data["g"].astype("Int64"))
    boolean = data.assign(f=data["z"] > 1)
    return {"labels": labelled, "two": two, "category": category, "text": text, "nullable": nullable, "bool": boolean}


@pytest.mark.parametrize("kind", kinds(random_data(1)))
def test_kinds_of_columns_and_rows(kind, tmp_path):
    returned(lmer("y ~ x + f + (1 | g)", kinds(random_data(1))[kind]), tmp_path / "fit.npz")


def test_singular_and_rank_deficient_fits(tmp_path):
    labs = lmer("y ~ x + (x | Group)", load_dataset("labs"))
    assert labs.is_singular
    labs.save(tmp_path / "labs.npz")
    assert load(tmp_path / "labs.npz").is_singular
    data = random_data(2).assign(twice=lambda d: 2 * d["x"])
    with pytest.warns(UserWarning, match="rank deficient"):
        fit = lmer("y ~ x + twice + (1 | g)", data)
    assert returned(fit, tmp_path / "fit.npz").design.dropped == ("twice",)


def rewritten(path, change):
    """The file with its header changed."""
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())
    change(header)
    np.savez(path, **{**arrays, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h: h.update(version=2), "update it"),
        (lambda h: h.update(format="other"), "not a fit"),
        (lambda h: h.update(criterion=h["criterion"] + 1e-3), "damaged"),
        (lambda h: h.update(theta=[1.0]), "theta must be 3"),
        (lambda h: h.update(formula="y ~ __import__('os').getcwd() + (1 | g)"), "__import__"),
    ],
)
def test_a_changed_file_is_refused(change, says, tmp_path):
    path = tmp_path / "fit.npz"
    lmer("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy")).save(path)
    with pytest.raises(ValueError, match=says):
        load(rewritten(path, change))


def test_other_files_are_refused_and_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "pickle").write_bytes(pickle.dumps(Payload()))
    np.savez(tmp_path / "objects.npz", header=np.array([Payload()], object))
    (tmp_path / "text").write_text("fit")
    for name in ("pickle", "objects.npz", "text"):
        with pytest.raises(ValueError, match="not a fit saved"):
            load(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


def test_what_cannot_be_written_says_so(tmp_path):
    data = random_data(1)
    with pytest.raises(ValueError, match="no column holds"):
        lmer("log(x) ~ z + (1 | g)", data).refit(np.arange(60.0) ** 1.5).save(tmp_path / "fit.npz")
    dates = data.assign(g=pd.Categorical(pd.to_datetime("2020-01-01") + pd.to_timedelta(data["g"], unit="D")))
    with pytest.raises(ValueError, match="'g' has levels"):
        lmer("y ~ x + (1 | g)", dates).save(tmp_path / "fit.npz")
