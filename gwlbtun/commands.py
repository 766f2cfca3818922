# SPDX-License-Identifier: MIT-0
"""The create and the destroy command of one endpoint: what it runs, how often one failed, and what is left to undo."""
import threading
from typing import Any, Dict, Optional

from .hooks import Hook
from .hooktally import HookTally
from .identity import Identity
from .logs import CORE, Log
from .netns import Namespace
from .settings import Settings
from .turns import Turn
from .worker import pause

RETRY_S = 10.0


class Commands:
    """Both hooks of one endpoint. Those of the settings may be missing."""

    def __init__(self, settings: Settings, identity: Identity, tally: HookTally, log: Log):
        self.failures = 0
        self._create, self._destroy = settings.create_hook, settings.destroy_hook
        self._identity = identity
        self._tally = tally
        self._log = log
        self._undo = False  # the endpoint has come as far as its create hook

    @property
    def due(self) -> bool:
        """Whether there is a create hook that has yet to run."""
        return bool(self._create) and not self._undo

    def record(self) -> Dict[str, Any]:
        """What resume() needs, in another program."""
        return {"undo": self._undo, "failures": self.failures}

    def resume(self, record: Dict[str, Any]) -> None:
        self._undo, self.failures = bool(record["undo"]), int(record["failures"])

    def owe_destroy(self) -> None:
        """The endpoint comes up, with a create hook or without: the destroy hook is to run."""
        self._undo = True

    def create(self, turn: Turn, stop: threading.Event, namespace: Optional[Namespace]) -> Hook:
        """Runs the create hook, and returns it when it has ended. Raises OSError or RuntimeError when it cannot start."""
        hook = self._hook(self._create or "", "CREATE", namespace)
        hook.run(turn, stop)
        self._undo = True
        self._count("create", hook)
        return hook

    def destroy(self, turn: Turn, namespace: Optional[Namespace]) -> None:
        """Runs the destroy hook however far the create hook came: what that has set up must not stay."""
        while self._undo and self._destroy:
            hook = self._hook(self._destroy, "DESTROY", namespace)
            try:
                # It gets all the time that it takes: what it leaves behind would stay.
                hook.run(turn)
                self._count("destroy", hook)
                break
            except (OSError, RuntimeError) as error:
                gwi = self._identity.title(self._identity.gwi)
                self._log.important(CORE, f"Cannot start the destroy hook of {gwi}: {error}. "
                                          f"gwlbtun tries again every {RETRY_S:.0f} s.")
                pause(RETRY_S)
        self._undo = False

    def _count(self, action: str, hook: Hook) -> None:
        self.failures += bool(hook.failure)
        self._tally.add(action, not hook.failure, hook.seconds)

    def _hook(self, command: str, action: str, namespace: Optional[Namespace]) -> Hook:
        return Hook(self._log, command, action, self._identity, namespace)
