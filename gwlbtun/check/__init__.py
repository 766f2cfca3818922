# SPDX-License-Identifier: MIT-0
"""`gwlbtun check`: whether this host is ready for gwlbtun. command.py is its beginning."""
