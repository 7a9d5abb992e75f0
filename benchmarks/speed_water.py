"""Time of energy and gradient of 256 boxes of rigid water beside OpenMM's CPU platform, on the same cores, in one run.

Ours goes from positions and quaternions to the gradient with respect to them. OpenMM goes from sites to forces on
sites, by PME at the tolerance that ice XI was published with (1e-4), without the way between bodies and sites. It runs
once as one context on all threads and once as one process per thread, each with its share of the boxes; the quicker
counts. Contenders take turns, and the quickest round counts. OpenMM comes with `flowgroup[boltzmann]`.

    python benchmarks/speed_water.py [--compile] [--threads 2] [--device cuda] [--boxes 256] [--cells 2 1 1]
"""

import argparse
import multiprocessing
import time

import numpy as np
import torch
from _tables import header, table

from flowgroup.boltzmann import RigidWater, ice_xi


def boxes(cells, batch):
    """Crystals at about 250 K: molecules off their places by 0.02 nm and 10 degrees."""
    torch.manual_seed(0)
    bodies, box = ice_xi(cells, dtype=torch.float64)
    return bodies + torch.randn(batch, *bodies.shape) * torch.tensor([0.02] * 3 + [0.08] * 4), box


def openmm_context(molecules, box, cutoff, threads):
    import openmm
    from openmm import app, unit

    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(molecules):
        residue = topology.addResidue("HOH", chain)
        elements = (app.element.oxygen, app.element.hydrogen, app.element.hydrogen, None)
        o, h1, h2, _ = (topology.addAtom(name, e, residue) for name, e in zip(("O", "H1", "H2", "M"), elements))
        topology.addBond(o, h1)
        topology.addBond(o, h2)
    topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in np.diag(box)] * unit.nanometer)
    field = app.ForceField("tip4pew.xml")
    system = field.createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=cutoff * unit.nanometer,
        ewaldErrorTolerance=1e-4,
        removeCMMotion=False,
    )
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setUseSwitchingFunction(True)
            force.setSwitchingDistance(0.9 * cutoff)
    platform = openmm.Platform.getPlatformByName("CPU")
    return openmm.Context(system, openmm.VerletIntegrator(0.001), platform, {"Threads": str(threads)})


def openmm_forces(context, sites):
    for positions in sites:
        context.setPositions(positions)
        context.getState(energy=True, forces=True).getForces(asNumpy=True)


def serve(pipe, sites, arguments):
    """One process of OpenMM: a round for each message."""
    context = openmm_context(*arguments, threads=1)
    while pipe.recv():
        openmm_forces(context, sites)
        pipe.send(True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=8)
    p.add_argument("--boxes", type=int, default=256)
    p.add_argument("--cells", type=int, nargs=3, default=(2, 1, 1))
    p.add_argument("--device", default="cpu")
    p.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    x, box = boxes(args.cells, args.boxes)
    n, cutoff = x.shape[1], min(0.9999 * float(box.min()) / 2, 1.0)

    def ours(dtype, accuracy, compiled=False):
        target = RigidWater(n, box, temperature=250.0, cutoff=cutoff, accuracy=accuracy).to(args.device)
        energy = torch.compile(target, fullgraph=True, dynamic=False) if compiled else target
        leaf = x.to(args.device, dtype).clone().requires_grad_()

        def run():
            (gradient,) = torch.autograd.grad(energy(leaf).sum(), leaf)
            if args.device != "cpu":
                torch.cuda.synchronize()
            return gradient

        return run

    contenders = {
        "flowgroup, float32, accuracy 1e-5": ours(torch.float32, 1e-5),
        "flowgroup, float32": ours(torch.float32, 1e-8),
        "flowgroup, float64": ours(torch.float64, 1e-8),
    }
    if args.compile:
        contenders["flowgroup, float32, compiled"] = ours(torch.float32, 1e-8, compiled=True)

    sites = RigidWater(n, box, temperature=250.0).sites(x).flatten(1, 2).numpy()
    context = openmm_context(n, box.numpy(), cutoff, args.threads)
    contenders["OpenMM, one context"] = lambda: openmm_forces(context, sites)
    pipes, spawn = [], multiprocessing.get_context("spawn")
    for share in np.array_split(sites, args.threads):
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(there, share, (n, box.numpy(), cutoff)), daemon=True).start()
        pipes.append(here)

    def several():
        for pipe in pipes:
            pipe.send(True)
        for pipe in pipes:
            pipe.recv()

    contenders["OpenMM, one process per thread"] = several

    times = dict.fromkeys(contenders, float("inf"))
    for round_ in range(args.rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if round_ > 0:  # the first warms up
                times[name] = min(times[name], time.perf_counter() - start)
    for pipe in pipes:
        pipe.send(False)
    best = min(t for name, t in times.items() if name.startswith("OpenMM"))
    rows = [[name, f"{1e6 * t / args.boxes:.0f}", f"{t / best:.2f}"] for name, t in times.items()]
    print(f"\nEnergy and gradient, {args.boxes} boxes of {n} molecules, {args.device}\n")
    print(header() + f", OpenMM {__import__('openmm').__version__}\n")
    print(table(["", "µs per box", "ratio to OpenMM"], rows))


if __name__ == "__main__":
    main()
