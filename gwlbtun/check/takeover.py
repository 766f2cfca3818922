# SPDX-License-Identifier: MIT-0
"""The rehearsal of a restart in place, by hand: could this program take over from the gwlbtun that runs?"""
from typing import Iterator

from ..rendezvous import DEFAULT_PATH
from ..settings import Settings
from ..show.asker import AskError, ask
from ..takeover import rehearsal
from .finding import Finding, Verdict

SUBJECT = "takeover"


def findings(settings: Settings) -> Iterator[Finding]:
    try:
        answer = ask({"ask": "takeover"}, None if settings.control == DEFAULT_PATH else settings.control)
    except AskError as error:
        yield Finding(Verdict.FAIL, SUBJECT, f"no gwlbtun says what there is to take over: {error}",
                      "start it, or give --control as it has it")
        return
    found = answer.first("outline")
    outline = found.get("outline") if found else None
    if not isinstance(outline, dict):
        yield Finding(Verdict.FAIL, SUBJECT, "the gwlbtun that runs cannot be taken over", "restart it")
        return
    reasons = rehearsal.objections(settings, outline)
    for reason in reasons:
        yield Finding(Verdict.FAIL, SUBJECT, reason, "restart gwlbtun, or keep to what it has")
    if not reasons:
        yield Finding(Verdict.OK, SUBJECT, f"SIGHUP would put this program in the place of process {answer.about.get('pid')}, "
                                           f"with its {outline.get('endpoints')} endpoints")
