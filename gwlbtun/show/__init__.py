# SPDX-License-Identifier: MIT-0
"""`gwlbtun show`: what the running daemon is at. command.py is its beginning; ../control.py is the daemon's end."""
