"""Recipes: one field a step, names that find what they mean, values that exist."""

import dataclasses
import itertools

import pytest
from conftest import refuses

from bioface import recipes
from bioface.recipes import (
    CODE_LADDER,
    FAULTS,
    HEALTHY,
    LADDER,
    PAPER_LITERAL,
    SINGLE_CHANGES,
    WORKING,
    Recipe,
)

EVERY = recipes._EVERY


def difference(one, other):
    """The fields, but the name, in which two recipes differ: {field: (in one, in the other)}."""
    names = [f.name for f in dataclasses.fields(Recipe) if f.name != "name"]
    return {n: (getattr(one, n), getattr(other, n)) for n in names if getattr(one, n) != getattr(other, n)}


@pytest.mark.parametrize("ladder", [LADDER, CODE_LADDER], ids=["to working", "to the authors' code"])
def test_each_step_of_a_ladder_changes_one_field_and_never_back(ladder):
    """A cause that comes and goes would not be one."""
    assert ladder[0] is PAPER_LITERAL
    assert ladder[-1] == recipes.get("authors_code" if ladder is CODE_LADDER else "working")
    fields = [list(difference(before, after)) for before, after in itertools.pairwise(ladder)]
    assert all(len(changed) == 1 for changed in fields), fields
    for (field,) in fields:
        values = [value for value, _ in itertools.groupby(getattr(recipe, field) for recipe in ladder)]
        assert len(set(values)) == len(values), field
    assert {field for (field,) in fields} == set(difference(ladder[0], ladder[-1]))


@pytest.mark.parametrize(("of", "changed"), [(WORKING, FAULTS), (PAPER_LITERAL, SINGLE_CHANGES)])
def test_faults_and_single_changes_change_one_field(of, changed):
    for recipe in changed:
        assert len(difference(of, recipe)) == 1, recipe.name
    what = [(field, after) for recipe in changed for field, (_, after) in difference(of, recipe).items()]
    assert len(set(what)) == len(changed)  # no two are the same


def test_every_wrong_decoder_is_a_fault():
    right = {"table", "spectral"}
    assert {r.decoder for r in FAULTS} - {WORKING.decoder} == set(recipes.DECODERS) - right
    assert WORKING.decoder in right and all(r.decoder in right for r in set(EVERY) - set(FAULTS))


def test_healthy_recipes_share_no_field_with_a_fault():
    """They differ from ``working`` in other ways than the faults do."""
    wrong = {field for recipe in FAULTS for field in difference(WORKING, recipe)}
    assert WORKING in HEALTHY and len(HEALTHY) > 1
    assert not any(wrong & set(difference(WORKING, recipe)) for recipe in HEALTHY)


def test_the_paper_is_taken_at_its_word():
    p = PAPER_LITERAL
    assert (p.skin, p.rows, p.scale, p.reduction, p.optimiser) == ("published", "paper", 1.0, "mean", "sgd")
    assert (p.learning_rate, p.momentum, p.schedule, p.shading) == (1e-5, 0.0, "constant", "exp")
    assert tuple(p.weights) == (1e-3, 1e-4, 1e-5, 1e-5, 0)


def test_a_name_is_one_recipe():
    for one, other in itertools.combinations(EVERY, 2):
        assert one.name != other.name or one == other, one.name


def test_recipes_are_found_by_name_the_nearest_is_suggested_and_others_pass_through():
    assert recipes.get("paper_literal") is PAPER_LITERAL
    mine = WORKING.but("mine", learning_rate=1.0)
    assert recipes.get(mine) is mine
    for misspelt, meant in (("workng", "working"), ("author_code", "authors_code")):
        refuses(f"unknown recipe '{misspelt}'; did you mean '{meant}'", recipes.get, misspelt)


@pytest.mark.parametrize("field", recipes.CHOICES)
def test_every_choice_exists_and_others_are_refused(field):
    for choice in recipes.CHOICES[field]:
        assert getattr(WORKING.but("mine", **{field: choice}), field) == choice
    misspelt = f"{recipes.CHOICES[field][-1]}x"
    refuses(f"unknown {field} '{misspelt}'; did you mean", WORKING.but, "mine", **{field: misspelt})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("copy_shading", 0.0, "copy_shading to be None, 'fitted' or a factor > 0, found 0.0"),
        ("copy_shading", "fited", "copy_shading to be None, 'fitted' or a factor > 0, found 'fited'"),
        ("learning_rate", 0.0, "learning_rate > 0, found 0.0"),
        ("learning_rate", float("nan"), "learning_rate > 0"),
    ],
)
def test_values_out_of_range_are_refused(field, value, message):
    refuses(message, WORKING.but, "mine", **{field: value})
    for way in (None, 1.0, 2.5, "fitted"):
        assert Recipe("mine", copy_shading=way).copy_shading == way
