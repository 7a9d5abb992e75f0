"""Running Markov chains: warm-up that adapts the step size, thinning, progress, and exchange between temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowgroup._checks import check_event_shape, positive_integer
from flowgroup.boltzmann.samplers.hmc import HMC
from flowgroup.boltzmann.samplers.kernels import Kernel, Potential, State, check_kernel
from flowgroup.boltzmann.targets import Target
from flowgroup.training.progress import progress_bar
from flowgroup.training.randomness import seeded

LARGEST = 1e3
"""What warm-up may make of a step size, over what it was: steps of many boxes leave no digits for where they end."""


@dataclass(repr=False)
class Chain:
    """What a run of Markov chains gave.

    Attributes:
        x: configurations (kept, *chains, *event); with parallel tempering (kept, levels, *chains, *event).
        energy: u(x) in kT, at β = 1 whatever the level.
        acceptance: mean probability of acceptance of each chain, after warm-up.
        step_size: the step size after warm-up, (levels,) with parallel tempering.
        bad: how many proposals had an energy that was NaN or infinite, warm-up included.
        swaps: mean probability of exchange between levels i and i + 1 (levels − 1,); None without levels.
    """

    x: Tensor
    energy: Tensor
    acceptance: Tensor
    step_size: Tensor
    bad: int
    swaps: Tensor | None = None

    def __repr__(self) -> str:
        text = f"Chain({len(self.x)} × {tuple(self.energy.shape[1:])}, acceptance {self.acceptance.mean():.2f}"
        if self.swaps is not None:
            text += f", swaps {self.swaps.min():.2f} … {self.swaps.max():.2f}"
        return text + f", {self.bad} bad proposals)"


def mcmc(
    target: Target,
    x: Tensor,
    kernel: Kernel | None = None,
    *,
    steps: int = 1000,
    warmup: int = 0,
    thin: int = 1,
    beta: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> Chain:
    """Markov chains with the stationary density e^{−βu(x)}/Z(β), all side by side in one batch.

    During warm-up every chain brings its own step size to where its acceptance is the kernel's `target_acceptance`, so
    that also chains from far away get going. Then all take the median of these, it stays, and samples are kept. It is
    at most a thousand times the kernel's: where all moves are as good, as those of a free body in a box, it would grow
    without end.

    Args:
        target: u.
        x: where the chains start (*chains, *event), with finite energies.
        kernel: `HMC`, `Langevin` or `RigidMoves`; by default `HMC()`.
        steps: steps after warm-up.
        warmup: steps before, thrown away.
        thin: keep every thin-th sample.
        beta: factor on u.
        seed: of all randomness inside; the global generators are left as they were.
        progress: whether to show a progress bar (tqdm).

    Returns:
        Samples and what the chains tell of themselves.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, starts without finite energy.

    Example:
        >>> from flowgroup import boltzmann
        >>> well = boltzmann.DoubleWell()
        >>> chain = mcmc(well, torch.zeros(200, 2), steps=100, warmup=100, progress=False)
        >>> chain.x.shape, bool((chain.x[..., 1].var() - 1).abs() < 0.1)
        (torch.Size([100, 200, 2]), True)
    """
    _check_arguments(target, x, steps, warmup, thin, 1)
    betas = torch.as_tensor([beta], dtype=x.dtype, device=x.device)
    chain = _run(target, x.unsqueeze(0), betas, kernel, steps, warmup, thin, 1, seed, progress)
    return Chain(chain.x[:, 0], chain.energy[:, 0], chain.acceptance[0], chain.step_size[0], chain.bad)


def parallel_tempering(
    target: Target,
    x: Tensor,
    betas: Sequence[float] | Tensor,
    kernel: Kernel | None = None,
    *,
    steps: int = 1000,
    warmup: int = 0,
    thin: int = 1,
    swap_every: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Chain:
    """Chains at every β of a ladder, whose configurations change places with probability min(1, e^{(βᵢ−βⱼ)(uᵢ−uⱼ)}).

    Neighbours i and i + 1 are offered an exchange after every `swap_every` steps, those with even and with odd i in
    turn. Every level adapts its own step size. A temperature ladder T₀ < T₁ < … of a target at T₀ is β = T₀/Tᵢ.

    Args:
        target: u.
        x: where the chains start (levels, *chains, *event); a leading size of 1 is the same start on every level.
        betas: positive factors on u (levels,), at least two; samples of the target are those of the level with β = 1.
        kernel, steps, warmup, thin, seed, progress: as in `mcmc`.
        swap_every: steps from one round of exchanges to the next.

    Returns:
        Samples of all levels.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, starts without finite energy.

    Source: Parallel tempering: Theory, applications, and new perspectives, 2005, arXiv physics/0508111.

    Example:
        >>> from flowgroup import boltzmann
        >>> start = torch.tensor([1.7, 0.0]).expand(1, 50, 2)  # all in the right well
        >>> chain = parallel_tempering(
        ...     boltzmann.DoubleWell(), start, [1.0, 0.5, 0.25, 0.1], steps=100, warmup=50, progress=False
        ... )
        >>> chain.x.shape, bool((chain.x[-1, 0, :, 0] < 0).any())
        (torch.Size([100, 4, 50, 2]), True)
    """
    _check_arguments(target, x, steps, warmup, thin, swap_every)
    betas = torch.as_tensor(betas, dtype=x.dtype, device=x.device)
    if betas.dim() != 1 or len(betas) < 2:
        raise ValueError(f"betas must be at least two numbers, got {betas.tolist()}")
    if x.dim() == len(target.event_shape) or len(x) not in (1, len(betas)):
        event = ", ".join(map(str, target.event_shape))
        raise ValueError(f"x must have shape ({len(betas)} or 1, *chains, {event}), got {tuple(x.shape)}")
    x = x.expand(len(betas), *x.shape[1:])
    return _run(target, x, betas, kernel, steps, warmup, thin, swap_every, seed, progress)


def _run(
    target: Target,
    x: Tensor,
    betas: Tensor,
    kernel: Kernel | None,
    steps: int,
    warmup: int,
    thin: int,
    swap_every: int,
    seed: int,
    progress: bool,
) -> Chain:
    """Chains x (levels, *chains, *event) at betas (levels,), with exchange where there are several levels."""
    kernel = HMC() if kernel is None else check_kernel(kernel)
    if not (betas > 0).all():
        raise ValueError(f"beta must be positive, got {betas.tolist()}")
    potential, levels = Potential.of(target), len(betas)
    with seeded(x.device, seed):
        state = potential.at(x.detach(), kernel.uses_gradient)
        u = state.energy
        if not u.isfinite().all():
            raise ValueError(
                f"x must have finite energies to start from, but {u.isinf().sum().item()} of {u.numel()} have not"
            )
        beta = betas.reshape(-1, *(1,) * (u.dim() - 1))
        log_size, settled = torch.full_like(u, kernel.step_size).log(), torch.zeros_like(u)
        acceptance, bad = torch.zeros_like(u), torch.zeros((), dtype=torch.long, device=x.device)
        swaps, offers = u.new_zeros(levels - 1), u.new_zeros(levels - 1)
        kept: list[tuple[Tensor, Tensor]] = []
        bar = progress_bar("sample", warmup + steps) if progress else None
        for i in range(warmup + steps):
            move = kernel.step(potential, state, log_size.exp(), beta)
            state, bad = move.state, bad + move.bad.sum()
            if i < warmup and kernel.target_acceptance is not None:
                log_size = log_size + (move.acceptance - kernel.target_acceptance) / (1 + i) ** 0.5
                log_size = log_size.clamp(max=math.log(LARGEST * kernel.step_size))
                if i >= warmup // 2:
                    settled = settled + log_size
                if i + 1 == warmup:
                    settled = settled / (warmup - warmup // 2)
                    median = settled.reshape(levels, -1).median(1).values
                    log_size = median.reshape(beta.shape).expand_as(u)
            if levels > 1 and (i + 1) % swap_every == 0:
                odd = i // swap_every % 2
                state, chance = _exchange(state, beta, odd)
                if i >= warmup:
                    swaps += chance
                    offers[odd::2] += 1
            if i >= warmup:
                acceptance += move.acceptance
                if (i + 1 - warmup) % thin == 0:
                    kept.append((state.x, state.energy))
            if bar is not None:
                bar.update()
                if i % 50 == 0:
                    bar.set_postfix_str(f"acceptance {move.acceptance.mean().item():.2f}", refresh=False)
        if bar is not None:
            bar.close()
    xs, energies = (torch.stack(parts) for parts in zip(*kept))
    size = log_size.reshape(levels, -1)[:, 0].exp()
    return Chain(xs, energies, acceptance / steps, size, int(bad), swaps / offers.clamp(min=1))


def _check_arguments(target, x, steps, warmup, thin, swap_every) -> None:
    if not isinstance(target, Target):
        raise TypeError(f"target must be a flowgroup.boltzmann.Target, got {type(target).__name__}")
    check_event_shape("x", x, tuple(target.event_shape))
    if x.numel() == 0:
        raise ValueError(f"x must hold at least one chain, got shape {tuple(x.shape)}")
    counts = {"steps": steps, "thin": thin, "swap_every": swap_every}
    for name, value in counts.items():
        positive_integer(name, value)
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"warmup must be an integer, 0 or larger, got {warmup!r}")
    if thin > steps:
        raise ValueError(f"thin must be at most steps, or nothing is kept, got thin={thin}, steps={steps}")


def _exchange(state: State, beta: Tensor, odd: int) -> tuple[State, Tensor]:
    """The state after offers between levels (odd, odd + 1), (odd + 2, odd + 3), …, and their mean probabilities."""
    u = state.energy
    chance = ((beta[:-1] - beta[1:]) * (u[:-1] - u[1:])).clamp(max=0).exp().nan_to_num(0.0)
    offered = torch.arange(len(u) - 1, device=u.device) % 2 == odd
    chance = chance * offered.reshape(-1, *(1,) * (u.dim() - 1))
    swapped = torch.rand_like(chance) < chance
    # level i takes from i + 1 where the pair (i, i + 1) swaps, from i − 1 where (i − 1, i) does
    last = torch.zeros_like(swapped[:1])
    up, down = torch.cat([swapped, last]), torch.cat([last, swapped])
    source = torch.arange(len(u), device=u.device).reshape(-1, *(1,) * (u.dim() - 1)) + up.long() - down.long()

    def moved(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        index = source.reshape(source.shape + (1,) * (values.dim() - source.dim())).expand(values.shape)
        return values.gather(0, index)

    # velocities too: their law is the same at every level, and they are tangent where their configuration is
    return State(*map(moved, state)), chance.flatten(1).mean(1) if chance.dim() > 1 else chance
