# SPDX-License-Identifier: MIT-0
"""A load balancer, hosts and an appliance in network namespaces of one machine: `gwlbtun.py demo`, and what tests build on."""
