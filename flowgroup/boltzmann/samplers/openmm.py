"""Molecular dynamics by OpenMM."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import check_event_shape, positive_integer
from flowgroup.boltzmann.targets.openmm import check_conditions, check_positive, cores, import_openmm, make_context
from flowgroup.boltzmann.units import BOLTZMANN
from flowgroup.training.progress import progress_bar

if TYPE_CHECKING:
    import openmm


class Trajectory(NamedTuple):
    """Frames of molecular dynamics.

    Attributes:
        x: positions in nm (frames, atoms, 3); with several temperatures (frames, levels, atoms, 3).
        energy: in kT of the first temperature (frames,) or (frames, levels).
        swaps: share of exchanges between levels i and i + 1 that were accepted (levels − 1,); empty without levels.
    """

    x: Tensor
    energy: Tensor
    swaps: Tensor


def openmm_trajectory(
    system: openmm.System,
    positions: Tensor,
    temperature: float | Iterable[float],
    *,
    frames: int = 1000,
    stride: int = 100,
    warmup: int = 10,
    step: float = 1.0,
    friction: float = 1.0,
    platform: str = "CPU",
    seed: int = 0,
    progress: bool = True,
) -> Trajectory:
    """Langevin dynamics dv = F/m dt − γv dt + √(2γkT/m) dW, at one temperature or, with exchanges, at several at once.

    It starts with a minimisation of the energy. With several temperatures neighbouring levels are offered an exchange
    of configurations after every frame, those with even and with odd numbers in turn (parallel tempering): so the first
    level crosses barriers that the last one crosses, and still has its own equilibrium. Levels run in threads
    on the CPU platform.

    Args:
        system: an `openmm.System`.
        positions: where to start, in nm (atoms, 3), or for each level (levels, atoms, 3).
        temperature: in kelvin; several in ascending order, about a quarter apart for a molecule of twenty atoms.
        frames: how many frames to keep.
        stride: steps from one frame to the next.
        warmup: frames thrown away before.
        step: in femtoseconds; 1 without constraints.
        friction: γ > 0 in 1/ps.
        platform: "CPU" or "Reference"; see `OpenMMTarget`.
        seed: of all randomness.
        progress: whether to show a progress bar (tqdm).

    Returns:
        Frames in float32, energies in float64.

    Raises:
        ImportError: without OpenMM.
        TypeError, ValueError: arguments of the wrong kind.
        openmm.OpenMMException: dynamics that explode: energies become NaN or infinite.

    Source: Unified Efficient Thermostat Scheme for the Canonical Ensemble with Holonomic or Isokinetic Constraints via
        Molecular Dynamics, 2019, Zhang and others (the integrator, LangevinMiddle); Parallel tempering: Theory,
        applications, and new perspectives, 2005, arXiv physics/0508111.

    Example:
        >>> import openmm
        >>> system, bond = openmm.System(), openmm.HarmonicBondForce()
        >>> for _ in range(2):
        ...     _ = system.addParticle(12.0)
        >>> _, _ = bond.addBond(0, 1, 0.1, 1000.0), system.addForce(bond)
        >>> start = 0.1 * torch.eye(3)[:2]
        >>> run = openmm_trajectory(system, start, 300.0, frames=5, platform="Reference", progress=False)
        >>> run.x.shape, run.energy.shape
        (torch.Size([5, 2, 3]), torch.Size([5]))
    """
    mm = import_openmm()
    if not isinstance(system, mm.System):
        raise TypeError(f"system must be an openmm.System, got {type(system).__name__}")
    values = temperature.tolist() if isinstance(temperature, Tensor | np.ndarray) else temperature
    # a quantity of OpenMM's can be iterated over even where it is one number; the check refuses it
    several = isinstance(values, Iterable) and not hasattr(values, "unit")
    levels = list(values) if several else [values]
    if not levels:
        raise ValueError("temperature must be one number or several, got none")
    for t in levels:
        check_conditions(t, platform)
    check_positive("step", step, "femtoseconds")
    check_positive("friction", friction, "1/ps")
    for name, value in {"frames": frames, "stride": stride}.items():
        positive_integer(name, value)
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"warmup must be an integer, 0 or larger, got {warmup!r}")
    check_event_shape("positions", positions, (system.getNumParticles(), 3))
    if positions.dim() > 2 and tuple(positions.shape[:-2]) not in ((1,), (len(levels),)):
        raise ValueError(f"positions must be those of one start or of {len(levels)}, got {tuple(positions.shape)}")
    starts = positions.detach().cpu().double().expand(len(levels), -1, -1).contiguous().numpy()

    rng = np.random.default_rng(seed)
    replicas = []
    for t, start in zip(levels, starts):
        integrator = mm.LangevinMiddleIntegrator(t, friction, 1e-3 * step)
        integrator.setRandomNumberSeed(int(rng.integers(1, 2**31 - 1)))
        context = make_context(system, platform, integrator)
        context.setPositions(start)
        context.computeVirtualSites()
        context.applyConstraints(1e-6)
        mm.LocalEnergyMinimizer.minimize(context)
        context.setVelocitiesToTemperature(t, int(rng.integers(1, 2**31 - 1)))
        replicas.append(context)

    def advance(context: openmm.Context) -> tuple[np.ndarray, np.ndarray, float]:
        context.getIntegrator().step(stride)
        state = context.getState(getPositions=True, getVelocities=True, getEnergy=True)
        x, v = state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
        u = state.getPotentialEnergy()._value
        if not math.isfinite(u):
            raise mm.OpenMMException(f"the energy became NaN or infinite: is the step of {step:g} fs too long?")
        return x, v, u

    beta = 1 / (BOLTZMANN * np.array(levels))
    xs = np.empty((frames, *starts.shape), np.float32)
    energies = np.empty((frames, len(levels)))
    accepted, offered = np.zeros(len(levels) - 1), np.zeros(len(levels) - 1)
    bar = progress_bar("sample", warmup + frames) if progress else None
    # all contexts of the Reference platform draw from one generator, which threads would spoil
    workers = 1 if platform == "Reference" else min(len(levels), cores())
    with ThreadPoolExecutor(workers) as threads:
        for frame in range(-warmup, frames):
            state = list(threads.map(advance, replicas))
            for i in range(frame % 2, len(levels) - 1, 2):
                (x, v, u), (hot_x, hot_v, hot_u) = state[i], state[i + 1]
                offered[i] += 1
                if np.log(rng.random()) >= (beta[i] - beta[i + 1]) * (u - hot_u):
                    continue
                accepted[i] += 1
                scale = np.sqrt(levels[i] / levels[i + 1])
                state[i], state[i + 1] = (hot_x, hot_v * scale, hot_u), (x, v / scale, u)
                for context, (new_x, new_v, _) in zip(replicas[i : i + 2], state[i : i + 2]):
                    context.setPositions(new_x)
                    context.setVelocities(new_v)
            if frame >= 0:
                xs[frame] = [s[0] for s in state]
                energies[frame] = [beta[0] * s[2] for s in state]
            if bar is not None:
                bar.update()
    if bar is not None:
        bar.close()
    x, energy = torch.from_numpy(xs), torch.from_numpy(energies)
    if not several:
        x, energy = x[:, 0], energy[:, 0]
    return Trajectory(x, energy, torch.from_numpy(accepted / np.maximum(offered, 1)))
