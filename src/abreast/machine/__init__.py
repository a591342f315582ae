"""What a ledger takes in seconds: a Machine prices events, `replay` times a whole ledger on one, `described` has
machines from public documents, and `calibrate` measures this one."""

from .calibrate import Calibration, calibrate
from .described import MACHINES
from .machine import Machine
from .replay import replay

__all__ = ["MACHINES", "Calibration", "Machine", "calibrate", "replay"]
