# SPDX-License-Identifier: MIT-0
"""The path in the kernel: known flows pass without any process (docs/KERNEL_PATH.md)."""
