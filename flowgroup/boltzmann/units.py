"""Constants that energies and volumes are counted in."""

from __future__ import annotations

import math

BOLTZMANN = 0.00831446261815324
"""Boltzmann's constant in kJ/mol/K."""

LOG_ROTATIONS = math.log(2 * math.pi**2)
"""Logarithm of the volume of unit quaternions, which counts as one for each rotation."""
