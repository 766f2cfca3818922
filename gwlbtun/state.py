# SPDX-License-Identifier: MIT-0
"""How far an endpoint is, in the words of health."""
import enum


class State(enum.Enum):
    WAITING = "waiting for its turn"
    SUCCEEDING = "waiting for its predecessor to go"
    CREATING = "being created"
    UP = "up"
    FAILED = "failed to come up"
    DESTROYING = "being destroyed"
