"""Energies of systems whose equilibrium is to be sampled, in units of kT."""

from flowgroup.boltzmann.targets.base import Target
from flowgroup.boltzmann.targets.in_coordinates import InCoordinates
from flowgroup.boltzmann.targets.many_well import DoubleWell, ManyWell
from flowgroup.boltzmann.targets.openmm import OpenMMTarget
from flowgroup.boltzmann.targets.particles import DW4, LennardJones
from flowgroup.boltzmann.targets.rotor import MethaneInField, TetrahedralRotor
from flowgroup.boltzmann.targets.water import RigidWater, bodies_to_sites, ice_xi, sites_to_bodies

__all__ = [
    "DW4",
    "DoubleWell",
    "InCoordinates",
    "LennardJones",
    "ManyWell",
    "MethaneInField",
    "OpenMMTarget",
    "RigidWater",
    "Target",
    "TetrahedralRotor",
    "bodies_to_sites",
    "ice_xi",
    "sites_to_bodies",
]
