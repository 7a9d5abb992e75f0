"""Alanine dipeptide, the small molecule that every method for molecules is tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from flowgroup.boltzmann.targets.openmm import import_openmm

if TYPE_CHECKING:
    import openmm
    import openmm.app

# residue, name, element, position in nm: the lowest minimum in vacuum (C7eq), of the L form
_ATOMS = """
    ACE H1  H  0.322  0.027 -0.091
    ACE CH3 C  0.290 -0.076 -0.101
    ACE H2  H  0.346 -0.140 -0.032
    ACE H3  H  0.307 -0.110 -0.203
    ACE C   C  0.143 -0.086 -0.069
    ACE O   O  0.064 -0.127 -0.154
    ALA N   N  0.104 -0.049  0.053
    ALA H   H  0.175 -0.016  0.116
    ALA CA  C -0.035 -0.049  0.098
    ALA HA  H -0.082 -0.142  0.065
    ALA CB  C -0.035 -0.049  0.252
    ALA HB1 H  0.013  0.041  0.290
    ALA HB2 H -0.137 -0.053  0.289
    ALA HB3 H  0.019 -0.137  0.289
    ALA C   C -0.115  0.068  0.038
    ALA O   O -0.146  0.166  0.106
    NME N   N -0.150  0.057 -0.091
    NME H   H -0.112 -0.023 -0.140
    NME C   C -0.228  0.156 -0.165
    NME H1  H -0.326  0.168 -0.119
    NME H2  H -0.176  0.252 -0.163
    NME H3  H -0.240  0.124 -0.269
"""
_BONDS = """
    0-1 1-2 1-3 1-4 4-5 4-6 6-7 6-8 8-9 8-10 8-14 10-11 10-12 10-13 14-15 14-16 16-17 16-18 18-19 18-20 18-21
"""


class Molecule(NamedTuple):
    """A molecule for OpenMM.

    Attributes:
        system: masses and forces.
        topology: atoms, residues and bonds, for OpenMM's and MDTraj's writers.
        positions: of a minimum, in nm (atoms, 3), float64.
        bonds: pairs of bonded atoms, as `flowgroup.flows.z_matrix` takes them.
        phi, psi: the atoms of the two torsions of the backbone.
    """

    system: openmm.System
    topology: openmm.app.Topology
    positions: Tensor
    bonds: tuple[tuple[int, int], ...]
    phi: tuple[int, int, int, int] = (4, 6, 8, 14)
    psi: tuple[int, int, int, int] = (6, 8, 14, 16)


def alanine_dipeptide(forcefield: str = "amber96.xml") -> Molecule:
    """ACE–ALA–NME in vacuum: 22 atoms, no cutoff, no constraints.

    The atoms are those of the test system of openmmtools, in its order, and with "amber96.xml" so is the energy, but
    for digits of constants: files of the AMBER programs have π as 3.141594, OpenMM's have 1/1.2 as 0.833333, which
    together makes up to 2e-4 kJ/mol.

    Args:
        forcefield: a file that `openmm.app.ForceField` knows.

    Raises:
        ImportError: without OpenMM.

    Example:
        >>> from flowgroup import boltzmann
        >>> molecule = alanine_dipeptide()
        >>> target = boltzmann.OpenMMTarget(molecule.system, temperature=300.0, platform="Reference")
        >>> round(target.potential(molecule.positions).item(), 1)  # kJ/mol
        -118.7
    """
    import_openmm()
    from openmm import app

    topology, atoms, positions = app.Topology(), [], []
    chain, residue = topology.addChain(), None
    for line in _ATOMS.strip().splitlines():
        residue_name, name, element, *position = line.split()
        if residue is None or residue.name != residue_name:
            residue = topology.addResidue(residue_name, chain)
        atoms.append(topology.addAtom(name, app.Element.getBySymbol(element), residue))
        positions.append([float(p) for p in position])
    bonds = tuple((int(i), int(j)) for i, j in (pair.split("-") for pair in _BONDS.split()))
    for i, j in bonds:
        topology.addBond(atoms[i], atoms[j])
    system = app.ForceField(forcefield).createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )
    return Molecule(system, topology, torch.tensor(positions, dtype=torch.float64), bonds)
