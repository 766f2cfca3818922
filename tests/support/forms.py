# SPDX-License-Identifier: MIT-0
"""The forms of health."""


def rendered(form, report):
    return form.head(report["reasons"]) + "".join(form.tail(report))
