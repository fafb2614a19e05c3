"""Annealed noise: each scheduler's mu and sigma bit for bit, moments, law of spins, pipelines."""

import copy
import inspect
from functools import partial
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from scipy.stats import power_divergence
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import qsample as qs
from qsample import Exactness, Graph
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.diffusion import AnnealedGuidance, first_order, regression, second_order
from qsample.integrations.diffusers.guidance import REVERSE
from qsample.integrations.diffusers.guidance_frame import Frame, walsh_hadamard
from qsample.problem.enumeration import states
from qsample.testing import FALSE_ALARM
from tests.support.exact import Z_MAX, untyped
from tests.support.seeds import generator
from tests.support.thinning import thinned

# diffusers' Euler schedulers hand tensors to NumPy in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PALINDROMIC = Gibbs(5, scan="palindromic")


def nothing(x, x0, t):
    return 0.0 * x.flatten(1).sum(1)


def dots(x, x0, t):
    """Quadratic, and the same bits in any batch: sums of each row alone."""
    flat = x.flatten(1)
    return flat[:, :-1].mul(flat[:, 1:]).sum(1) + (flat - 0.3).square().sum(1) / 2


# ---- mu and sigma ----------------

SCHEDULERS = {
    "ddpm": partial(DDPMScheduler),
    "ddpm, large": partial(DDPMScheduler, variance_type="fixed_large", clip_sample=False),
    "ddpm, log": partial(DDPMScheduler, variance_type="fixed_small_log", prediction_type="sample"),
    "ddpm, learned": partial(DDPMScheduler, variance_type="learned"),
    "ddpm, range": partial(
        DDPMScheduler, variance_type="learned_range", prediction_type="v_prediction"
    ),
    "ddpm, threshold": partial(DDPMScheduler, thresholding=True, beta_schedule="squaredcos_cap_v2"),
    "ddim": partial(DDIMScheduler),
    "ddim, no one": partial(
        DDIMScheduler, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
    ),
    "ddim, sample": partial(DDIMScheduler, prediction_type="sample", clip_sample_range=0.5),
    "euler": partial(EulerAncestralDiscreteScheduler),
    "euler, v": partial(
        EulerAncestralDiscreteScheduler, prediction_type="v_prediction", timestep_spacing="trailing"
    ),
}


def arguments(scheduler, t, x, g, **more):
    """Of one step, complete; the network's output is random, learned variances positive."""
    wide = getattr(scheduler, "variance_type", "").startswith("learned")
    output = torch.randn(x.shape, generator=g)
    if wide:
        output = torch.cat([output, torch.rand(x.shape, generator=g)], 1)
    bound = inspect.signature(scheduler.step).bind(output, t, x, **more)
    bound.apply_defaults()
    return bound.arguments


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("clipped", [False, True])
def test_mean_and_std_are_the_schedulers_own(name, clipped):
    scheduler = SCHEDULERS[name]()
    more = {"eta": 0.7, "use_clipped_model_output": clipped} if name.startswith("ddim") else {}
    scheduler.set_timesteps(7)
    x, g, random = torch.randn(2, 2, 4, 4, generator=generator()), generator(1), 0
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)
        given = arguments(scheduler, t, x, g, **more)
        reverse = REVERSE[type(scheduler)](scheduler, given)
        own = scheduler.step(**{**given, "generator": generator(2)})
        expected = reverse.mean + reverse.std * torch.randn(x.shape, generator=generator(2))
        assert torch.equal(own.prev_sample, expected if reverse.std.any() else reverse.mean)
        assert torch.equal(own.pred_original_sample, reverse.x0)
        random += bool((reverse.std > 0).any())
        x = own.prev_sample
    assert random >= 6


def test_the_time_of_x_is_the_next_step():
    for name in ("ddpm", "ddim", "euler"):
        scheduler, seen = SCHEDULERS[name](), []

        def note(x, x0, t, seen=seen):
            seen.append(int(t))
            return nothing(x, x0, t)

        guided = AnnealedGuidance(scheduler, note, PALINDROMIC, K=16)
        guided.set_timesteps(4)
        x = torch.randn(1, 1, 4, 4, generator=generator())
        for t in guided.timesteps:
            x = guided.step(
                **{
                    **arguments(scheduler, t, guided.scale_model_input(x, t), generator()),
                    **ETA[name],
                }
            )[0]
        assert sorted(set(seen), reverse=True) == [int(t) for t in scheduler.timesteps[1:]]


ETA = {
    "ddpm": {"return_dict": False},
    "ddim": {"return_dict": False, "eta": 1.0},
    "euler": {"return_dict": False},
}


# ---- noise from uniform spins ----------------


def test_walsh_hadamard_is_sylvesters():
    H = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        H = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), H)
    assert torch.equal(walsh_hadamard(torch.eye(16, dtype=torch.float64)), H)


def wrong_side(self, s):
    return (
        walsh_hadamard((self.signs.to(s) * s).unflatten(-1, (-1, self.K))).flatten(-2) / self.K**0.5
    )


def test_moments_over_all_signs_and_spins():
    """By enumeration: mean 0, covariance 1, and the kurtosis of a block's mean, 3 - 6/K + 4/K^2."""
    K = 8
    s = states(K).double()
    frames = Frame(torch.arange(K).expand(2**K, K), states(K).float(), K)
    all_s = s[:, None].expand(-1, 2**K, -1)
    z = torch.stack([frames.noise(one) for one in all_s]).flatten(0, 1)
    torch.testing.assert_close(
        torch.stack([frames.spins(frames.noise(one)) for one in all_s]), all_s
    )
    torch.testing.assert_close(z.mean(0), torch.zeros(K, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        z.T @ z / len(z), torch.eye(K, dtype=torch.float64), rtol=0, atol=1e-12
    )

    def kurtosis(m):
        return float((m**4).mean() / (m**2).mean() ** 2)

    assert kurtosis(z.mean(-1)) == pytest.approx(3 - 6 / K + 4 / K**2, rel=1e-12)
    assert kurtosis(
        torch.stack([wrong_side(frames, one) for one in all_s]).mean(-1)
    ) == pytest.approx(1, rel=1e-12)


def moments(K, blocks, seed, N=10_000):
    """z-scores of the first four moments of guided noise at G = 0, against normal noise."""
    scheduler = DDPMScheduler(clip_sample=False)
    guided = AnnealedGuidance(
        scheduler, nothing, Gibbs(1), K=K, blocks=blocks, surrogate=first_order, moves=0
    )
    guided.set_timesteps(10)
    x = torch.zeros(N, 1, 8, 8)
    z = (
        guided.step(x, guided.timesteps[3], x, generator=generator(seed))
        .prev_sample.flatten(1)
        .double()
    )
    given = arguments(scheduler, guided.timesteps[3], x, generator())
    z = z / REVERSE[DDPMScheduler](scheduler, given).std.double()
    a = torch.stack(
        [
            torch.ones(64),  # the image's mean
            torch.eye(64)[11],  # a pixel
            torch.tensor([1.0, -1.0]).repeat(32),  # stripes
            torch.randn(64, generator=generator(7)),
        ]
    ).double()
    y = z @ (a / a.norm(dim=-1, keepdim=True)).T
    exact, variance = (0.0, 1.0, 0.0, 3.0), (1.0, 2.0, 15.0, 96.0)  # of a normal number's powers
    return torch.stack(
        [
            ((y**k).mean(0) - m) / (v / N) ** 0.5
            for k, m, v in zip((1, 2, 3, 4), exact, variance, strict=True)
        ]
    )


@pytest.mark.parametrize(("K", "blocks"), [(64, 1), (16, 2), (16, 4)])
def test_moments_of_uniform_spins_are_those_of_the_plain_step(K, blocks):
    assert moments(K, blocks, seed=K + blocks).abs().max() < Z_MAX


def test_signs_on_the_wrong_side_are_seen(monkeypatch):
    monkeypatch.setattr(Frame, "noise", wrong_side)
    assert moments(64, 1, seed=65)[3, 0] < -Z_MAX  # the fourth moment of the image's mean


# ---- the law of the spins ----------------

SHAPE = (1, 5, 5)
G = torch.randn(25, 25, generator=generator(3)) / 4
C = torch.randn(25, generator=generator(4)) / 2
CASES = 20  # G-tests of this section: FALSE_ALARM is shared out over them


def quadratic(x, x0, t):
    flat = x.flatten(1)
    return ((flat @ G) * flat).sum(1) + flat @ C + 0.1 * (flat * x0.flatten(1)).sum(1)


def rugged(x, x0, t):
    return quadratic(x, x0, t) + 2 * torch.tanh(2 * x.flatten(1) @ G[:, :4]).sum(1)


def recorded(monkeypatch):
    """The frames that steps draw, as they are."""
    frames, draw = [], Frame.draw

    def spy(*args):
        frames.append(draw(*args))
        return frames[-1]

    monkeypatch.setattr(Frame, "draw", staticmethod(spy))
    return frames


def p_values(energy, monkeypatch, *, N, K, blocks=1, scale=1.5, seed=0, **options):
    """Each item's spins against its own exact law: G-tests of the probability integral.

    With F the distribution function in some order of the 2^(K blocks) states and v uniform,
    F(s-) + v p(s) is uniform. Ordered by energy (too hot, too cold), and by number.
    """
    frames = recorded(monkeypatch)
    scheduler = DDPMScheduler()
    guided = AnnealedGuidance(scheduler, energy, scale=scale, K=K, blocks=blocks, **options)
    guided.set_timesteps(10)
    x, t = torch.randn(N, *SHAPE, generator=generator(seed)), guided.timesteps[2]
    given = arguments(scheduler, t, x, generator(seed + 1), generator=generator(seed + 2))
    reverse = REVERSE[DDPMScheduler](scheduler, given)
    out = guided.step(**given).prev_sample
    frame = frames[0]
    z = ((out - reverse.mean) / reverse.std).flatten(1).gather(1, frame.sites)
    S = states(K * blocks).float()
    number = ((frame.spins(z) > 0) * 2 ** torch.arange(S.shape[1])).sum(-1)
    places = ((S > 0) * 2 ** torch.arange(S.shape[1])).sum(-1)
    v, found = torch.rand(N, generator=generator(seed + 3), dtype=torch.float64), []
    for i in range(N):
        one = Frame(frame.sites[i : i + 1], frame.signs[i : i + 1], K)
        moved = out[i].flatten().expand(len(S), -1).clone()
        moved[:, one.sites[0]] = (
            reverse.mean[i].flatten()[one.sites[0]] + reverse.std * one.noise(S)
        ).float()
        E = energy(moved.view(-1, *SHAPE), reverse.x0[i : i + 1].expand(len(S), *SHAPE), reverse.t)
        law, at = (-scale * E.double()).softmax(-1), int((places == number[i]).nonzero())
        for order in (E.argsort(), places.argsort()):
            before = order[: int((order == at).nonzero())]
            found.append(float(law[before].sum() + v[i] * law[at]))
    found = torch.tensor(found).reshape(N, 2)
    bins = max(5, min(20, N // 20))
    seen = [torch.histc(u, bins, 0, 1) for u in found.T]
    return [
        float(power_divergence(one.numpy(), lambda_="log-likelihood").pvalue) for one in seen
    ], guided


QUADRATIC = {
    "exact draws": {"sampler": Exact(), "moves": 0},
    "exact draws, corrected": {"sampler": Exact()},
    "Gibbs": {"sampler": Gibbs(100, scan="palindromic")},
    "regression": {
        "sampler": Exact(),
        "moves": 0,
        "surrogate": partial(regression, flips=0.5, ridge=1e-9),
    },
}


@pytest.mark.parametrize("name", thinned(QUADRATIC, 9))
def test_the_law_is_exact_for_a_quadratic_energy(name, monkeypatch):
    p, guided = p_values(quadratic, monkeypatch, N=2000, K=8, **QUADRATIC[name])
    assert min(p) > FALSE_ALARM / CASES
    if QUADRATIC[name].get("moves", 1):
        assert guided.info["acceptance"][0] > 0.999  # the surrogate is the energy, to rounding


@pytest.mark.parametrize(("K", "blocks"), thinned([(4, 3), (16, 1)], 2))
def test_the_law_is_exact_in_other_blocks(K, blocks, monkeypatch):
    p, _ = p_values(quadratic, monkeypatch, N=100, K=K, blocks=blocks, sampler=Exact())
    assert min(p) > FALSE_ALARM / CASES


@pytest.mark.parametrize(
    "surrogate",
    [
        first_order,
        pytest.param(second_order, marks=pytest.mark.long),
        pytest.param(partial(regression, flips=0.5, states=60), marks=pytest.mark.long),
    ],
)
@pytest.mark.long
def test_the_correction_makes_any_energy_exact(surrogate, monkeypatch):
    p, guided = p_values(
        rugged, monkeypatch, N=2000, K=8, sampler=Exact(), surrogate=surrogate, moves=40
    )
    assert min(p) > FALSE_ALARM / CASES
    assert (
        guided.info["exactness"] is Exactness.ASYMPTOTIC
        and 0.1 < guided.info["acceptance"][0] < 0.95
    )


@pytest.mark.parametrize(
    "wrong",
    thinned(
        [
            {"surrogate": second_order, "moves": 0},  # the correction dropped
            {"surrogate": first_order, "moves": 0},
            {
                "surrogate": lambda *args, **kwargs: second_order(*args, **kwargs).scale(1.2),
                "moves": 0,
            },
        ],
        3,
    ),
)
def test_what_must_fail(wrong, monkeypatch):
    p, guided = p_values(rugged, monkeypatch, N=2000, K=8, sampler=Exact(), **wrong)
    assert min(p) < FALSE_ALARM / CASES and guided.info["exactness"] is Exactness.HEURISTIC


# ---- as a scheduler ----------------


def run(scheduler, energy=dots, seeds=(0,), single=False, steps=4, start=None, eta=1.0, **options):
    """Samples `[B, 1, 4, 4]` with the network 0.2 x + 0.1, one generator an item or one for all."""
    scheduler = scheduler()
    if energy is not None:
        scheduler = AnnealedGuidance(
            scheduler, energy, **{"sampler": PALINDROMIC, "K": 8, **options}
        )
    generators = [generator(seed) for seed in seeds]
    x = torch.cat([torch.randn(1, 1, 4, 4, generator=g) for g in generators])
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    more = {"eta": eta} if "eta" in inspect.signature(scheduler.step).parameters else {}
    g = generators[0] if single else generators
    for t in scheduler.timesteps:
        output = 0.2 * scheduler.scale_model_input(x, t) + 0.1
        x = scheduler.step(output, t, x, generator=g, **more).prev_sample
    return x


KINDS = {name: SCHEDULERS[name] for name in ("ddpm", "ddim", "euler")}


@pytest.mark.parametrize("kind", thinned(KINDS, 3))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"surrogate": first_order, "blocks": 2, "sampler": Exact()},
        {"surrogate": partial(regression, flips=0.5), "K": 4, "moves": 3},
        {"sampler": SimulatedAnnealing(20), "moves": 0},
    ],
)
def test_a_batch_is_its_items_alone(kind, options):
    scale = 0.01 if kind == "euler" else 1.0  # its x is large
    batch = run(KINDS[kind], seeds=(3, 1, 4, 5), scale=scale, **options)
    alone = torch.cat(
        [
            run(KINDS[kind], seeds=(seed,), single=True, scale=scale, **options)
            for seed in (3, 1, 4, 5)
        ]
    )
    assert torch.equal(batch, alone)
    assert not torch.equal(batch, run(KINDS[kind], energy=None, seeds=(3, 1, 4, 5)))


@pytest.mark.parametrize("kind", KINDS)
def test_scale_0_is_the_wrapped_scheduler(kind):
    for single in (True, False):
        plain = run(KINDS[kind], energy=None, single=single)
        assert torch.equal(run(KINDS[kind], single=single, scale=0.0), plain)
    assert torch.equal(
        run(KINDS["ddim"], scale=0.0, eta=0.0), run(KINDS["ddim"], energy=None, eta=0.0)
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_is_spins_in_the_blocks_and_the_schedulers_outside(name, monkeypatch):
    """Also where a network predicts the standard deviation of each pixel."""
    frames, scheduler = recorded(monkeypatch), SCHEDULERS[name]()
    guided = AnnealedGuidance(scheduler, dots, PALINDROMIC, scale=0.1, K=4, blocks=2)
    guided.set_timesteps(4)
    plain = copy.deepcopy(scheduler)
    x, t = torch.randn(3, 2, 4, 4, generator=generator()), scheduler.timesteps[1]
    more = {"eta": 0.7} if name.startswith("ddim") else {}
    given = arguments(scheduler, t, x, generator(2), **more)
    reverse = REVERSE[type(scheduler)](scheduler, given)
    usual = plain.step(**{**given, "generator": generator(1)}).prev_sample
    out = guided.step(**{**given, "generator": generator(1)}).prev_sample
    assert ((out == usual).flatten(1).sum(-1) == 32 - 8).all()
    z = ((out - reverse.mean) / reverse.std).flatten(1).gather(1, frames[0].sites)
    s = frames[0].spins(z)
    torch.testing.assert_close(s, s.sign(), rtol=0, atol=1e-3)


def pipeline(kind: type = DDPMPipeline, scheduler=None) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    pipe = kind(unet, scheduler or DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, **options) -> Any:
    return pipe(
        2, generator=generator(5), num_inference_steps=3, output_type="np", **options
    ).images


def bright(x, x0, t):
    return -x.flatten(1).mean(1)


def test_one_line_in_a_pipeline():
    pipe = pipeline()
    plain = draw(pipe)
    pipe.scheduler = AnnealedGuidance(pipe.scheduler, bright, PALINDROMIC, scale=1e3)
    assert draw(pipe).mean() > plain.mean() + 0.1
    info = pipe.scheduler.info
    # two images; two of the three steps have noise: a gradient, the draw's energy and its move's
    # for each
    assert (info["network"], info["energy"], info["hessian_vectors"]) == (6, 12, 256)
    assert len(info["acceptance"]) == 2 and info["exactness"] is Exactness.ASYMPTOTIC
    pipe.scheduler.scale = 0
    assert (draw(pipe) == plain).all() and pipe.scheduler.info["energy"] == 0


def test_ddim_by_the_pipelines_eta():
    pipe = pipeline(DDIMPipeline, DDIMScheduler())
    plain = draw(pipe, eta=1.0)
    pipe.scheduler = AnnealedGuidance(pipe.scheduler, bright, PALINDROMIC, scale=1e3)
    assert draw(pipe, eta=1.0).mean() > plain.mean() + 0.1
    with pytest.raises(ValueError, match="eta=1.0"):
        draw(pipe)


def test_it_passes_for_the_scheduler_it_wraps(tmp_path):
    pipe = pipeline()
    guided = pipe.scheduler = AnnealedGuidance(pipe.scheduler, bright, PALINDROMIC)
    assert isinstance(guided, DDPMScheduler) and isinstance(guided, AnnealedGuidance)
    assert guided.config is guided.scheduler.config and guided.order == 1 and len(guided) == 1000
    for name in ("step", "set_timesteps"):
        assert inspect.signature(getattr(guided, name)) == inspect.signature(
            getattr(guided.scheduler, name)
        )
    guided.num_inference_steps = 5
    assert guided.scheduler.num_inference_steps == 5
    other: Any = DDIMScheduler.from_config(guided.config)
    assert other.config.num_train_timesteps == 1000
    again = copy.deepcopy(guided)
    assert (
        type(again) is AnnealedGuidance
        and again.scheduler is not guided.scheduler
        and "DDPM" in repr(again)
    )
    with pytest.raises(AttributeError, match="no_such"):
        guided.no_such  # noqa: B018
    pipe.save_pretrained(tmp_path)  # an energy is no JSON: what is loaded is the plain pipeline
    loaded = DDPMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is DDPMScheduler
    guided.scale = 0
    assert (draw(loaded) == draw(pipe)).all()


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (TypeError, "PNDMScheduler: DDPMScheduler.from_config", {"scheduler": PNDMScheduler()}),
        (TypeError, "function energy", {"energy": 3}),
        (TypeError, "sampler", {"sampler": "gibbs"}),
        (ValueError, "not reversible.*moves=0", {"sampler": Gibbs(5)}),
        (ValueError, "not reversible", {"sampler": SimulatedAnnealing(5)}),
        (ValueError, "got 10: use 8", {"K": 10}),
        (ValueError, "K >= 1; got 0", {"K": 0}),
        (ValueError, "blocks >= 1", {"blocks": 0}),
        (ValueError, "moves >= 0", {"moves": -1}),
        (ValueError, "scale >= 0; got -1", {"scale": -1}),
        (ValueError, "scale >= 0; got nan", {"scale": float("nan")}),
    ],
)
def test_settings_are_checked(error, match, change):
    given = {
        "scheduler": DDPMScheduler(),
        "energy": dots,
        "sampler": PALINDROMIC,
        "scale": 1.0,
        **change,
    }
    with untyped(), pytest.raises(error, match=match) as found:
        AnnealedGuidance(given.pop("scheduler"), **given)
    assert "\n" not in str(found.value)


def test_guidance_of_guidance_is_refused():
    with pytest.raises(TypeError, match="got AnnealedGuidance"):
        AnnealedGuidance(AnnealedGuidance(DDPMScheduler(), dots, PALINDROMIC), dots, PALINDROMIC)


@pytest.mark.parametrize(
    ("match", "options", "more"),
    [
        ("need 32 coordinates; an image has 16: lower K", {"K": 32}, {}),
        ("2 blocks of K=16 need 32", {"K": 16, "blocks": 2}, {}),
        (r"expected energies \[2\].*got \[\]", {"energy": lambda x, x0, t: x.sum()}, {}),
        ("no gradient", {"energy": lambda x, x0, t: x.detach().flatten(1).sum(1)}, {}),
        ("nan", {"energy": lambda x, x0, t: x.flatten(1).sum(1) * float("nan")}, {}),
        ("variance_noise", {}, {"variance_noise": torch.zeros(2, 1, 4, 4)}),
        ("one generator", {}, {"generator": [generator(), generator(), generator()]}),
    ],
)
def test_steps_are_checked(match, options, more):
    scheduler = DDIMScheduler()
    guided = AnnealedGuidance(
        scheduler, **{"energy": dots, "sampler": PALINDROMIC, "K": 8, **options}
    )
    guided.set_timesteps(4)
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=match):
        guided.step(x, guided.timesteps[1], x, eta=1.0, **more)


# ---- energies of x_0, half precision, attention, pipelines that make their own scheduler ---------


def bright_x0(x, x0, t):
    return -x0.flatten(1).mean(1)


def images(energy, kind="ddpm", scale=1.0, dtype=torch.float32, **options):
    """Two of 8 x 8 after 4 steps, by a fixed linear network."""
    scheduler = SCHEDULERS[kind]()
    options = {"sampler": PALINDROMIC, "K": 16, **options}
    guided = AnnealedGuidance(scheduler, energy, scale=scale, **options)
    guided.set_timesteps(4)
    x = torch.randn(2, 1, 8, 8, generator=generator(1)).to(dtype) * scheduler.init_noise_sigma
    for t in guided.timesteps:
        output = 0.2 * guided.scale_model_input(x, t) + 0.1
        more = {"eta": 1.0} if kind == "ddim" else {}
        x = guided.step(output, t, x, generator=generator(2), **more).prev_sample
        assert x.dtype is dtype
    return x, guided.info


LINEAR = partial(regression, flips=0.5, graph=Graph.sparse(16, []))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("surrogate", [second_order, first_order, LINEAR])
def test_an_energy_of_x0_alone_guides(kind, surrogate):
    """x_0 is linear in x', so G is: brighter x_0 is brighter x'; scales 1 and 1,000 differ."""
    weak, strong = (images(bright_x0, kind, scale, surrogate=surrogate)[0] for scale in (1.0, 1e3))
    assert not torch.equal(weak, strong)
    x, info = images(lambda x, x0, t: -x.flatten(1).mean(1), kind, 1e3, surrogate=surrogate)
    assert strong.mean() > weak.mean()
    assert len(info["acceptance"]) == 3
    if kind != "euler":  # where the gain is 1 / (1 + sigma^2): weak guidance in much noise
        assert float((strong.mean() - weak.mean()) / (x.mean() - weak.mean())) > 0.5


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler"])
def test_the_gain_is_that_of_the_best_denoiser_of_unit_variance(name):
    """x_0 and x' jointly normal, data of variance 1: the regression of x_0 on x'."""
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(7)
    x, g = torch.randn(2, 2, 4, 4, generator=generator()), generator(1)
    more = {"eta": 1.0} if name == "ddim" else {}
    for k, t in enumerate(scheduler.timesteps[:-1]):
        scheduler.scale_model_input(x, t)
        given = arguments(scheduler, t, x, g, **more)
        reverse = REVERSE[type(scheduler)](scheduler, given)
        then = scheduler.timesteps[k + 1 : k + 2]
        # add_noise is signal x_0 + noise z at the time of x'
        signal, noise = (
            float(scheduler.add_noise(torch.full((1, 1), a), torch.full((1, 1), b), then))
            for a, b in ((1.0, 0.0), (0.0, 1.0))
        )
        assert float(reverse.gain) == pytest.approx(signal / (signal**2 + noise**2), rel=1e-3)
        moved = reverse.mean + reverse.std * torch.randn(x.shape, generator=g)
        expected = reverse.x0 + reverse.gain * (moved - reverse.mean)
        torch.testing.assert_close(reverse.x0_of(moved), expected)
        x = scheduler.step(**given).prev_sample


def test_the_law_of_an_energy_of_x0_is_exact(monkeypatch):
    """Against the same energy written in x' by hand."""
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(10)
    found = {}

    def of_x0(x, x0, t):
        return quadratic(x0, x0, t) / 3

    def by_hand(x, x0, t):
        reverse = found["reverse"]
        return quadratic(reverse.x0_of(x), reverse.x0_of(x), t) / 3 + 0.0 * x.flatten(1).sum(1)

    x, t = torch.randn(50, *SHAPE, generator=generator(0)), scheduler.timesteps[2]
    given = arguments(scheduler, t, x, generator(1))
    found["reverse"] = REVERSE[DDPMScheduler](scheduler, given)
    outs = []
    for energy in (of_x0, by_hand):
        guided = AnnealedGuidance(scheduler, energy, Exact(), K=8)
        outs.append(guided.step(**{**given, "generator": generator(4)}).prev_sample)
    torch.testing.assert_close(*outs)


def steps_of_x0(x, x0, t):
    return -(x0 > 0.3).to(x0).flatten(1).mean(1)


def steps_of_x(x, x0, t):
    return -(x > 0.3).to(x).flatten(1).mean(1)


@pytest.mark.parametrize("energy", [steps_of_x0, steps_of_x])
def test_the_advice_for_an_energy_without_a_gradient_works(energy):
    """What the error says, run as it says: at scale 300 the energy of a step falls."""
    with pytest.raises(ValueError, match="no gradient: use surrogate=partial"):
        images(energy, surrogate=first_order)
    with pytest.raises(ValueError, match="no gradient") as error:
        images(energy)
    advice = str(error.value).split("use ")[1].split(", 34")[0]
    known = {"partial": partial, "regression": regression, "qs": qs}
    options = eval(f"dict({advice})", known)
    scheduler, N = DDPMScheduler(), 100
    scheduler.set_timesteps(10)
    x, t = torch.randn(N, 1, 8, 8, generator=generator()), scheduler.timesteps[5]
    given = arguments(scheduler, t, x, generator(1))
    reverse, found = REVERSE[DDPMScheduler](scheduler, given), []
    for scale in (0.0, 300.0):
        guided = AnnealedGuidance(scheduler, energy, PALINDROMIC, scale=scale, K=16, **options)
        out = guided.step(**{**given, "generator": generator(2)}).prev_sample
        found.append(energy(out, reverse.x0_of(out), t).double())
        assert guided.info["energy"] == (N * 36 if scale else 0)
    fall = found[0] - found[1]
    assert fall.mean() / (fall.std() / N**0.5) > Z_MAX


@pytest.mark.parametrize("kind", thinned(KINDS, 3))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("energy", [bright, bright_x0])
def test_half_precision_is_guided_as_single_is(kind, dtype, energy):
    options = {"surrogate": first_order, "moves": 0}
    half, _ = images(energy, kind, 1e3, dtype, **options)
    single, _ = images(energy, kind, 1e3, **options)
    rounding = torch.finfo(dtype).eps
    # a spin may turn where its field is near 0; the means of the images cannot tell
    assert abs(float(half.double().mean() - single.double().mean())) < 100 * rounding
    assert images(energy, kind, 1e3, dtype)[1]["acceptance"]
    assert images(energy, kind, 1e3, dtype, surrogate=LINEAR)[1]["acceptance"]


@pytest.mark.parametrize("energy", [dots, bright_x0])
def test_guidance_under_inference_mode(energy):
    plain, _ = images(energy, scale=3.0)
    with torch.inference_mode():
        found, info = images(energy, scale=3.0)
    assert torch.equal(found, plain) and info["hessian_vectors"] == 2 * 3 * 16


class Attention(torch.nn.Module):
    """Mean brightness after attention over the pixels, by a chosen kernel."""

    def __init__(self, kernel=None):
        super().__init__()
        self.kernel = kernel
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.qkv = torch.nn.Linear(1, 24)

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(1)[..., None])[:, None].chunk(3, -1)
        if self.kernel is None:
            return scaled_dot_product_attention(q, k, v).flatten(1).mean(1)
        with sdpa_kernel(self.kernel):
            return scaled_dot_product_attention(q, k, v).flatten(1).mean(1)


def test_attention_is_derived_twice_by_its_formula():
    by_default, by_formula = Attention(), Attention(SDPBackend.MATH)
    ours, info = images(lambda x, x0, t: by_default(x), scale=1e3)
    theirs, _ = images(lambda x, x0, t: by_formula(x), scale=1e3)
    torch.testing.assert_close(ours, theirs)
    assert info["hessian_vectors"] == 2 * 3 * 16


def test_what_cannot_be_derived_twice_names_first_order():
    fused = Attention(SDPBackend.FLASH_ATTENTION)
    with pytest.raises(
        ValueError, match="no second derivative: use surrogate=first_order"
    ) as error:
        images(lambda x, x0, t: fused(x))
    assert "\n" not in str(error.value)
    images(lambda x, x0, t: fused(x), surrogate=first_order)


def test_a_pipeline_that_makes_its_own_scheduler_is_told(tmp_path):
    plain = pipeline(DDIMPipeline, DDIMScheduler())
    plain.save_pretrained(tmp_path)
    guided: Any = AnnealedGuidance(DDIMScheduler(), bright, PALINDROMIC)

    class Rebuilding(DiffusionPipeline):
        def __init__(self, unet, scheduler):
            super().__init__()
            scheduler = DDPMScheduler.from_config(scheduler.config, clip_sample=False)
            self.register_modules(unet=unet, scheduler=scheduler)

    class Reading(DiffusionPipeline):
        def __init__(self, unet, scheduler):
            super().__init__()
            assert scheduler.config.num_train_timesteps == 1000 and "beta_start" in scheduler.config
            self.register_modules(unet=unet, scheduler=scheduler)

    for make in (
        lambda: DDIMPipeline(plain.unet, guided),
        lambda: Rebuilding(plain.unet, guided),
        lambda: DDIMPipeline.from_pretrained(tmp_path, scheduler=guided),
    ):
        with pytest.raises(
            ValueError, match=r"without the guidance: .*pipe.scheduler = Anneal"
        ) as error:
            make()
        assert "\n" not in str(error.value)
    plain.scheduler = guided
    with pytest.raises(ValueError, match="DDIMPipeline makes a scheduler of its own"):
        DDIMPipeline.from_pipe(plain)
    assert type(Reading(plain.unet, guided).scheduler) is AnnealedGuidance
    assert type(copy.deepcopy(plain).scheduler) is AnnealedGuidance
    assert type(DDPMPipeline(plain.unet, guided).scheduler) is AnnealedGuidance
    before = draw(plain, eta=1.0)
    guided.scale = 1e3
    assert draw(plain, eta=1.0).mean() > before.mean()


def test_the_name_of_a_surrogate_is_none():
    name: Any = "first_order"
    with pytest.raises(TypeError, match=r"such as qsample\.diffusion\.first_order; got 'first_"):
        AnnealedGuidance(DDPMScheduler(), nothing, Gibbs(1), surrogate=name, moves=0)
