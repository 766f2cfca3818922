# SPDX-License-Identifier: MIT-0
"""The create and the destroy command of one endpoint: what it runs, how often one failed, and what is left to undo."""
import threading
import time

from .hooks import Hook
from .logs import CORE, Log
from .settings import Settings
from .turns import Turn

RETRY_S = 10.0


class Commands:
    """Both hooks of one endpoint. Those of the settings may be missing."""

    def __init__(self, settings: Settings, gwi: str, gwo: str, eni: int, log: Log):
        self.failures = 0
        self._create, self._destroy = settings.create_hook, settings.destroy_hook
        self._gwi, self._gwo, self._eni = gwi, gwo, eni
        self._log = log
        self._undo = False  # the endpoint has come as far as its create hook

    @property
    def due(self) -> bool:
        """Whether there is a create hook that has yet to run."""
        return bool(self._create) and not self._undo

    def owe_destroy(self) -> None:
        """The endpoint comes up, with a create hook or without: the destroy hook is to run."""
        self._undo = True

    def create(self, turn: Turn, stop: threading.Event) -> Hook:
        """Runs the create hook, and returns it when it has ended. Raises OSError or RuntimeError when it cannot start."""
        hook = self._hook(self._create or "", "CREATE")
        succeeded = hook.run(turn, stop)
        self._undo = True
        self.failures += not succeeded
        return hook

    def destroy(self, turn: Turn) -> None:
        """Runs the destroy hook however far the create hook came: what that has set up must not stay."""
        while self._undo and self._destroy:
            try:
                # It gets all the time that it takes: what it leaves behind would stay.
                self.failures += not self._hook(self._destroy, "DESTROY").run(turn)
                break
            except (OSError, RuntimeError) as error:
                self._log.important(CORE, f"Cannot start the destroy hook of {self._gwi}: {error}. "
                                          f"gwlbtun tries again every {RETRY_S:.0f} s.")
                time.sleep(RETRY_S)
        self._undo = False

    def _hook(self, command: str, action: str) -> Hook:
        return Hook(self._log, command, action, self._gwi, self._gwo, self._eni)
