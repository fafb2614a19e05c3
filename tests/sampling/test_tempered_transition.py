"""The log ratio of a tempered transition, written out."""

import pytest
import torch

from qsample.sampling.tempered_transition import check_ladder, tempered_transition


def test_the_sums_are_those_of_the_states_between_the_moves():
    energies = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    betas, asked = (1.0, 0.6, 0.3, 0.0), []

    def move(beta):
        asked.append(beta)
        return energies[len(asked)]

    log_ratio, log_weight = tempered_transition(betas, energies[0], move)
    assert asked == [0.6, 0.3, 0.0, 0.0, 0.3, 0.6]
    up = 0.4 * energies[0] + 0.3 * energies[1] + 0.3 * energies[2]
    down = 0.3 * energies[4] + 0.3 * energies[5] + 0.4 * energies[6]
    torch.testing.assert_close(log_weight, up)
    torch.testing.assert_close(log_ratio, up - down)


@pytest.mark.parametrize("betas", [(1.0,), (0.9, 0.5), (1.0, 1.0), (1.0, 0.5, -0.1)])
def test_ladders_that_do_not_fall(betas):
    with pytest.raises(ValueError, match="expected betas 1 = b_0 > b_1"):
        check_ladder(betas)
