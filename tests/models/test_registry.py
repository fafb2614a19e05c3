"""Models by name: every one is made for data of some width, and says how it is made again."""

import pytest
import torch

from qsample.models.registry import MODELS, architecture, check_hidden, new_model, rebuilt


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_made_and_made_again(name):
    entry = MODELS[name]
    hidden = 0 if entry.max_hidden == 0 else 2
    generator = torch.Generator().manual_seed(3)
    model = new_model(name, 6, hidden, (2, 3), generator=generator)
    assert type(model) is entry.model_class and model.coding == entry.coding
    assert (model.num_visible, model.num_hidden) == (6, hidden) and entry.about
    record = architecture(model)
    assert record is not None
    again = rebuilt(record, model.graph.num_spins)
    again.load_state_dict(model.state_dict())
    assert again.graph.hash == model.graph.hash


def test_the_weights_are_the_generators():
    first, same = (
        new_model("rbm", 4, 3, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(dict(first.named_parameters())["W"], dict(same.named_parameters())["W"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cube", 4, 1), "unknown model 'cube'; expected one of rbm, boltzmann, grid"),
        (("rbm", 4, 0), "expected hidden >= 1 for model rbm; got 0"),
        (("grid", 4, 0), "the data have no rows and columns, which model grid needs"),
        (("grid", 4, 1, (2, 2)), "expected hidden <= 0 for model grid; got 1"),
        (("grid", 4, 0, (2, 3)), "expected images of 4 bits; got 2 rows of 3"),
    ],
)
def test_what_cannot_be_made_is_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        new_model(*arguments)


def test_hidden_units_are_counted():
    check_hidden("boltzmann", 0)
    with pytest.raises(ValueError, match="expected hidden >= 0 for model boltzmann; got -2"):
        check_hidden("boltzmann", -2)
