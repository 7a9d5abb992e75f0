"""Rigid water: its energy in periodic boxes, and crystals of it."""

from flowgroup.boltzmann.targets.water.geometry import bodies_to_sites, sites_to_bodies
from flowgroup.boltzmann.targets.water.ice import ice_xi
from flowgroup.boltzmann.targets.water.tip4p import RigidWater

__all__ = ["RigidWater", "bodies_to_sites", "ice_xi", "sites_to_bodies"]
