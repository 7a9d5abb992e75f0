"""Energies and forces of any OpenMM system."""

from __future__ import annotations

import hashlib
import numbers
import os
import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from flowgroup._checks import check_event_shape, positive_integer, values_readable
from flowgroup.boltzmann.targets.base import Target
from flowgroup.boltzmann.units import BOLTZMANN

if TYPE_CHECKING:
    import openmm

PLATFORMS = ("CPU", "Reference")


class OpenMMTarget(Target):
    """u(x) = U(x)/kT of an OpenMM system with its forces, for a batch side by side in threads that have a context each.

    OpenMM lets go of Python while it computes, so threads keep all cores busy where an energy takes much longer than
    the 10 µs that Python needs for a configuration. Each context computes in one thread. The platform "Reference"
    works in float64, and is the quicker one for molecules of some ten atoms; "CPU" works in float32, and is the one
    for boxes of water.

    Virtual sites are put where the atoms they belong to say, whatever x holds there: u does not depend on it, and their
    forces are in those of the atoms. Constraints are not looked at. Where atoms lie on each other energies may be NaN,
    as OpenMM gives them; a configuration that is not finite has energy NaN.

    There are first derivatives, also under `torch.func`; second ones raise. torch.compile breaks its graph at the call.

    Args:
        system: an `openmm.System`, or the path of one as XML (`openmm.XmlSerializer`). It is copied. A periodic system
            has its default box.
        temperature: T in kelvin, a number; `value_in_unit(unit.kelvin)` makes one of a quantity of OpenMM's.
        platform: "CPU" or "Reference".
        workers: threads; by default as many as there are cores for this process.

    Attributes:
        kT: in kJ/mol.
        virtual: which particles are virtual sites (atoms,).

    Raises:
        ImportError: without OpenMM.
        TypeError, ValueError: what is no system, a temperature that is not positive, an unknown platform.

    Source: OpenMM 8: Molecular Dynamics Simulation with Machine Learning Potentials, 2023, arXiv 2310.03121.

    Example:
        >>> import openmm
        >>> system = openmm.System()
        >>> bond = openmm.HarmonicBondForce()
        >>> for _ in range(2):
        ...     _ = system.addParticle(1.0)
        >>> _, _ = bond.addBond(0, 1, 0.1, 1000.0), system.addForce(bond)
        >>> target = OpenMMTarget(system, temperature=300.0, platform="Reference")
        >>> x = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]], dtype=torch.float64)
        >>> u, force = target.force(x)
        >>> round(u.item() * target.kT, 6), round(force[1, 0].item() * target.kT, 6)  # ½·1000·0.1², −1000·0.1
        (5.0, -100.0)
    """

    def __init__(
        self,
        system: openmm.System | str | os.PathLike,
        temperature: float,
        platform: str = "CPU",
        workers: int | None = None,
    ):
        super().__init__()
        mm = import_openmm()
        if isinstance(system, str | os.PathLike):
            system = _read(Path(system))
        if not isinstance(system, mm.System):
            raise TypeError(f"system must be an openmm.System, got {type(system).__name__}")
        check_conditions(temperature, platform)
        self.temperature, self.platform = float(temperature), platform
        self.workers = cores() if workers is None else positive_integer("workers", workers)
        n = system.getNumParticles()
        self.event_shape = torch.Size((n, 3))
        self.register_buffer("virtual", torch.tensor([system.isVirtualSite(i) for i in range(n)]), persistent=False)
        self._xml = mm.XmlSerializer.serialize(system)
        self._pool: _Contexts | None = None

    @property
    def kT(self) -> float:  # noqa: N802
        """In kJ/mol."""
        return BOLTZMANN * self.temperature

    def _energy(self, x: Tensor) -> Tensor:
        return self.potential(x) / self.kT

    def potential(self, x: Tensor) -> Tensor:
        """U(x) in kJ/mol, of the batch shape, for x (*batch, atoms, 3) in nm."""
        check_event_shape("x", x, tuple(self.event_shape))
        return self._potential(x)

    @torch.compiler.disable
    def _potential(self, x: Tensor) -> Tensor:
        # inside torch.func there is no telling whether a derivative will be asked for
        needs_force = torch.is_grad_enabled() and (x.requires_grad or not values_readable(x))
        return _Potential.apply(x, self, needs_force)[0]

    def _evaluate(self, x: Tensor, needs_force: bool) -> tuple[Tensor, Tensor]:
        """U (*batch) and −∂U/∂x (*batch, atoms, 3), the latter empty where it is not needed."""
        batch = x.shape[:-2]
        positions = x.detach().to("cpu", torch.float64).reshape(-1, *self.event_shape).contiguous().numpy()
        energy, force = self._contexts().evaluate(positions, needs_force)
        energy = torch.from_numpy(energy).to(x).reshape(batch)
        if not needs_force:
            return energy, x.new_empty(0)
        force = torch.from_numpy(force).to(x).reshape(x.shape)
        return energy, force.masked_fill(self.virtual.unsqueeze(-1).to(x.device), 0.0)

    def _contexts(self) -> _Contexts:
        if self._pool is None or self._pool.process != os.getpid():  # threads do not live on in a forked process
            self._pool = _Contexts(self._xml, self.platform, self.workers)
        return self._pool

    def close(self) -> None:
        """End the threads and free the contexts; they come back when they are needed."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pool": None}

    def extra_repr(self) -> str:
        # workers change nothing; a part of the hash of all its parameters tells the system from others
        system = hashlib.sha256(self._xml.encode()).hexdigest()[:8]
        return f"{self.event_shape[0]} atoms, system {system}, {self.platform}"


class _Potential(Function):
    """U(x), with the forces that the backward pass needs."""

    @staticmethod
    def forward(x: Tensor, target: OpenMMTarget, needs_force: bool) -> tuple[Tensor, Tensor]:
        return target._evaluate(x, needs_force)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _):
        return _Slope.apply(*ctx.saved_tensors, grad), None, None

    @staticmethod
    def vmap(info, in_dims, x: Tensor, target: OpenMMTarget, needs_force: bool):
        return _Potential.apply(x.movedim(in_dims[0], 0), target, needs_force), (0, 0 if needs_force else None)


class _Slope(Function):
    """−grad·force, which knows no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, force: Tensor, grad: Tensor) -> Tensor:
        return -grad[..., None, None] * force

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad: Tensor):
        raise NotImplementedError(
            "OpenMM gives energies and forces, no second derivatives: this energy can be differentiated once only"
        )


class _Contexts:
    """Contexts of one system, one for each of a number of threads."""

    def __init__(self, xml: str, platform: str, number: int):
        self.process, self._number = os.getpid(), number
        self._xml, self._platform = xml, platform
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        self._made = 0
        self._threads = ThreadPoolExecutor(number, "openmm") if number > 1 else None

    def evaluate(self, x: np.ndarray, needs_force: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Energies (n,) and forces (n, atoms, 3) of positions of that shape."""
        energy = np.full(len(x), np.nan)
        force = np.full(x.shape, np.nan) if needs_force else None
        # several shares for each thread: one that waits for a core must not keep the others waiting
        shares = min(len(x), 4 * self._number if self._number > 1 else 1)
        bounds = [len(x) * i // shares for i in range(shares + 1)] if shares else []
        slices = [slice(*ends) for ends in zip(bounds, bounds[1:])]
        while self._made < min(self._number, len(slices)):
            self._idle.put(make_context(self._xml, self._platform))
            self._made += 1

        def work(rows: slice) -> None:
            context = self._idle.get()
            try:
                _evaluate(context, x[rows], energy[rows], None if force is None else force[rows])
            finally:
                self._idle.put(context)

        if len(slices) <= 1 or self._threads is None:
            for rows in slices:
                work(rows)
        else:
            for done in [self._threads.submit(work, rows) for rows in slices]:
                done.result()
        return energy, force

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()


def _evaluate(context: openmm.Context, x: np.ndarray, energy: np.ndarray, force: np.ndarray | None) -> None:
    """Fill in energies and forces of finite positions."""
    for i in np.isfinite(x).all((1, 2)).nonzero()[0]:
        context.setPositions(x[i])
        context.computeVirtualSites()
        state = context.getState(getEnergy=True, getForces=force is not None)
        energy[i] = state.getPotentialEnergy()._value
        if force is not None:
            force[i] = state.getForces(asNumpy=True)._value


def import_openmm():
    """The package, or an error that says how to get it."""
    try:
        import openmm
    except ImportError as error:
        raise ImportError("this needs OpenMM: pip install 'flowgroup[boltzmann]'") from error
    return openmm


def _read(path: Path) -> openmm.System:
    mm = import_openmm()
    try:
        return mm.XmlSerializer.deserialize(path.read_text())
    except (ValueError, mm.OpenMMException) as error:
        raise ValueError(f"system must be an openmm.System or the XML file of one, {path} is not: {error}") from error


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_context(
    system: openmm.System | str, platform: str, integrator: openmm.Integrator | None = None
) -> openmm.Context:
    """A context of a system, or of its XML, that computes in one thread."""
    mm = import_openmm()
    system = mm.XmlSerializer.deserialize(system) if isinstance(system, str) else system
    properties = {"Threads": "1"} if platform == "CPU" else {}
    integrator = mm.VerletIntegrator(0.001) if integrator is None else integrator
    return mm.Context(system, integrator, mm.Platform.getPlatformByName(platform), properties)


def check_conditions(temperature: float, platform: str) -> None:
    """Raise unless there are such a temperature and platform."""
    check_positive("temperature", temperature, "kelvin")
    if platform not in PLATFORMS:
        raise ValueError(f"platform must be one of {PLATFORMS}, got {platform!r}")


def check_positive(name: str, value: float, unit: str) -> None:
    """Raise unless a value is a positive number; a quantity of OpenMM's, which has a unit of its own, is none."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, in {unit}, got {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, in {unit}, got {value}")
