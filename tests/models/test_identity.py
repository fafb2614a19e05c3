"""What weights are for travels with them, through casts of the whole state_dict."""

import pytest
import torch

from qsample import Graph
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.models.identity import record_of, tensor_of, text_of

MODELS = {
    "rbm": lambda: BernoulliRBM(6, 3),
    "machine": lambda: BoltzmannMachine(Graph.complete(5), range(3, 5)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_cast_to_floats_load(name, dtype):
    model = MODELS[name]()
    state = {key: value.to(dtype) for key, value in model.state_dict().items()}
    other = MODELS[name]()
    other.load_state_dict(state)
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.to(dtype).to(ours))


@pytest.mark.parametrize("name", MODELS)
def test_an_average_that_touches_the_text_is_refused(name):
    states = [MODELS[name]().state_dict() for _ in range(3)]
    average = {key: sum(state[key] for state in states) / 3 for key in states[0]}
    with pytest.raises(ValueError, match="'_extra_state' is damaged: copy it unchanged"):
        MODELS[name]().load_state_dict(average)
    average["_extra_state"] = states[0]["_extra_state"]
    MODELS[name]().load_state_dict(average)


@pytest.mark.parametrize(
    "state",
    [
        torch.tensor([300.0]),
        torch.tensor([0.5]),
        torch.tensor([255, 254]),
        torch.zeros(2, device="meta"),
        "text",
    ],
)
def test_no_text(state):
    with pytest.raises(ValueError, match="damaged"):
        text_of(state)


@pytest.mark.parametrize("text", ["[1]", "{", "7"])
def test_no_record(text):
    assert text_of(tensor_of(text)) == text
    with pytest.raises(ValueError, match="holds no record"):
        record_of(tensor_of(text))
