"""The codebook and the shield alone: nearest codes, straight-through and soft gradients, moving averages, revival, health."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.defenses._quantiser import Quantiser, soft_assignment, straight_through, unquantised
from ironclip.defenses._shield import PatchPool, PixelShield, Shield, as_map, as_tokens


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantiser(codes: int = 12, width: int = 5, **options) -> Quantiser:
    """Codes far from one another."""
    made = Quantiser(codes, width, generator=drawn(), **options)
    made.codebook.data = torch.randn(codes, width, generator=drawn(1))
    return made


def latents(*shape: int, seed: int = 2, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=drawn(seed))


def shield(**options) -> Shield:
    given = {"channels": 6, "width": 5, "codes": 12, "decay": 0.0, "pre_norm": "none", "generator": drawn()}
    return Shield(**{**given, **options})


# ---- nearest codes


def test_nearest_codes_are_those_of_a_search_in_double_precision_whatever_the_company():
    made, z = quantiser(), latents(7, 9, 5)
    wide, codes = z.double(), made.codebook.detach().double()
    expected = (wide[:, :, None] - codes).square().sum(-1).argmin(-1)
    assert torch.equal(made.nearest(z), expected)
    for chunk in (1, 3):
        assert torch.equal(torch.cat([made.nearest(part) for part in z.split(chunk)]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_are_taken_in_float32_where_half_precision_overflows(dtype):
    made = Quantiser(64, 256, generator=drawn())  # codes of the released start, U(-1/K, 1/K)
    z = latents(2, 30, 256)
    z = (1e3 * z / z.norm(dim=-1, keepdim=True)).to(dtype)
    wide, codes = z.double(), made.codebook.detach().double()
    expected = (wide[:, :, None] - codes).square().sum(-1).argmin(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made.scores(z).dtype == torch.float32
        assert made.scores(z).isfinite().all()
        assert torch.equal(made.nearest(z), expected)
    assert expected.unique().numel() > 10


# ---- gradients


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_the_latent():
    made, z = quantiser(), latents(2, 4, 5).requires_grad_()
    out = straight_through(made, z)
    assert torch.equal(out, made.codebook[made.nearest(z)])
    slope = latents(2, 4, 5, seed=3)
    found = torch.autograd.grad(out, (z, made.codebook), slope, allow_unused=True)
    assert torch.equal(found[0], slope)
    assert found[1] is None


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_soft_assignment_has_the_hard_value_and_the_gradient_written_out(tau):
    made, z = quantiser(), latents(1, 3, 5).requires_grad_()
    out = soft_assignment(tau)(made, z)
    assert_close(out, straight_through(made, z), atol=1e-6, rtol=0)
    distances = (z[:, :, None] - made.codebook.detach()).square().sum(-1)
    median = distances.detach().amin(-1).flatten().median()
    soft = (-distances / (tau * median)).softmax(-1) @ made.codebook.detach()
    slope = latents(1, 3, 5, seed=3)
    assert_close(torch.autograd.grad(out, z, slope)[0], torch.autograd.grad(soft, z, slope)[0], atol=1e-5, rtol=1e-4)


def test_soft_assignment_takes_the_temperature_of_each_image_alone():
    made, z = quantiser(), latents(3, 4, 5) * torch.tensor([0.3, 1.0, 4.0])[:, None, None]
    z.requires_grad_()
    assign = soft_assignment(0.3)
    (whole,) = torch.autograd.grad(assign(made, z).square().sum(), z)
    rows = z.detach().requires_grad_().split(1)
    alone = torch.cat([torch.autograd.grad(assign(made, row).square().sum(), row)[0] for row in rows])
    assert_close(whole, alone, atol=1e-5, rtol=1e-4)


def test_without_codes_the_decoder_sees_the_latent():
    made, z = quantiser(), latents(2, 4, 5)
    assert unquantised(made, z) is z


def test_a_gradient_codebook_learns_from_what_it_looks_up_and_a_moving_one_does_not():
    z = latents(2, 4, 5)
    for decay in (0.0, 0.9):
        made = quantiser(decay=decay)
        assert made.look_up(made.nearest(z)).requires_grad == (decay == 0)
        assert (made.usage is None) == (decay == 0)


# ---- moving averages, start, revival


def test_codes_follow_the_quotient_of_moving_sums_written_out():
    made, decay = quantiser(decay=0.8), 0.8
    counts, sums = torch.ones(12), made.codebook.detach().clone()
    for seed in range(4):
        z = latents(3, 8, 5, seed=seed)
        chosen = made.nearest(z)
        made.update(z, chosen)
        for k in range(12):
            mine = z[chosen == k]
            counts[k] = decay * counts[k] + (1 - decay) * len(mine)
            sums[k] = decay * sums[k] + (1 - decay) * mine.sum(0)
    assert_close(made.usage.detach(), counts, atol=1e-5, rtol=1e-5)
    assert_close(made.codebook.detach(), sums / counts[:, None], atol=1e-4, rtol=1e-4)


def test_a_forward_pass_moves_no_code():
    made = shield(decay=0.9).train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(latents(2, 16, 6))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_dead_codes_are_replaced_by_latents_of_the_batch():
    made, z = quantiser(decay=0.5), latents(2, 6, 5) + 50
    made.codebook.data[0] = 50.0  # the one code that is ever chosen
    before = made.codebook.detach().clone()
    for _ in range(8):
        made.update(z, made.nearest(z))
    assert made.revive(z, 0.01, drawn()) == 11
    rows = {tuple(row) for row in z.flatten(0, 1).tolist()}
    assert all(tuple(row) in rows for row in made.codebook[1:].tolist())
    assert len({tuple(row) for row in made.codebook[1:].tolist()}) == 11
    assert not torch.equal(made.codebook[0], before[0])
    assert made.revive(z, 0.01, drawn()) == 0


@pytest.mark.parametrize("available", [3, 12, 40])
def test_codes_start_as_latents_none_twice_before_all_came_once(available):
    made, z = quantiser(decay=0.9), latents(available, 5)
    made.start(z, drawn())
    again = quantiser(decay=0.9)
    again.start(z, drawn())
    assert torch.equal(made.codebook, again.codebook)
    rows = {tuple(row) for row in z.tolist()}
    taken = {tuple(row) for row in made.codebook.tolist()}
    assert taken <= rows
    assert len(taken) == min(12, available)


# ---- health


def test_health_of_known_assignments():
    made = quantiser(codes=20, width=5)
    even = made.codebook.detach()[torch.arange(20)].view(2, 10, 5)
    found = made.health(even, made.nearest(even))
    assert found == {
        "code_perplexity": pytest.approx(20, rel=1e-5), "dead_codes": 0.0, "quantisation_error": 0.0, "code_alarm": 0.0
    }  # fmt: skip
    far = torch.full((2, 10, 5), 100.0)
    found = made.health(far, made.nearest(far))
    assert found["code_perplexity"] == pytest.approx(1.0)
    assert found["dead_codes"] == pytest.approx(0.95)
    assert found["quantisation_error"] > 0.9
    assert found["code_alarm"] == 1.0


def test_one_code_for_all_raises_the_alarm_at_any_error():
    made = quantiser(codes=20, width=5)
    same = made.codebook.detach()[:1].expand(30, 5).reshape(3, 10, 5)
    found = made.health(same, made.nearest(same))
    assert found["quantisation_error"] == 0.0
    assert found["code_alarm"] == 1.0


# ---- the shield


def test_a_patch_keeps_its_place_in_the_grid():
    grid = torch.zeros(1, 16, 3)
    grid[0, 2 * 4 + 1] = torch.tensor([1.0, 2.0, 3.0])  # row 2, column 1
    found = as_map(grid)
    assert found[0, :, 2, 1].tolist() == [1.0, 2.0, 3.0]
    assert found.abs().sum() == 6.0
    assert torch.equal(as_tokens(found), grid)


def test_the_shield_is_its_layers_written_out():
    made, grid = shield(), latents(2, 16, 6)
    x = grid.transpose(1, 2).reshape(2, 6, 4, 4)
    first, _, second, unit = made.encoder

    def residual(unit, x):
        return x + unit.conv2(unit.conv1(x.relu()).relu())

    z = residual(unit, second(first(x).relu()))
    flat = z.flatten(2).transpose(1, 2)
    codes = made.quantiser.codebook[made.quantiser.nearest(flat)]
    start, again, last = made.decoder
    rebuilt = last(residual(again, start(codes.transpose(1, 2).reshape(2, 5, 4, 4))))
    found = made(grid)
    assert_close(found.latent, flat)
    assert_close(found.rebuilt, rebuilt.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("pre_norm", "factor"), [("layernorm", 7.0), ("l2", 7.0)])
def test_norms_take_the_scale_out_and_hold_no_numbers(pre_norm, factor):
    made, grid = shield(pre_norm=pre_norm), latents(2, 16, 6)
    assert_close(made.encode(factor * grid), made.encode(grid), atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in shield().parameters())
    assert not torch.allclose(shield().encode(factor * grid), shield().encode(grid), atol=1e-2)


def test_pooling_is_one_weight_a_position_and_one_bias():
    pool, grid = PatchPool(4, drawn()), latents(2, 4, 3)
    assert sum(p.numel() for p in pool.parameters()) == 5
    expected = sum(pool.weight[0, n] * grid[:, n] for n in range(4)) + pool.bias
    assert_close(pool(grid), expected)


def test_pixels_come_back_where_they_were():
    made = PixelShield(shield(channels=48))
    images = torch.rand(2, 3, 16, 16, generator=drawn())
    assert made.grid(images).shape == (2, 16, 48)
    made.shield.forward = lambda grid, assign: type("R", (), {"rebuilt": grid})()
    assert torch.equal(made(images), images)


def test_construction_leaves_the_global_randomness_alone():
    state = torch.random.get_rng_state()
    first, second = shield(), shield()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
