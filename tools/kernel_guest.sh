#!/usr/bin/env bash
# SPDX-License-Identifier: MIT-0
# The first process of a guest of tools/kernels.py, which starts it on the host's files, with a layer above them for what
# is written: makes a machine of that, runs a command, tells its status, and ends.
#
# Usage: tools/kernel_guest.sh MODULES DIRECTORY COMMAND...
set -u
modules=$1 directory=$2
shift 2

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$modules" /lib/modules
ln -sf /proc/self/fd /dev/fd
hostname guest
ip link set lo up
# udev does that elsewhere: the device is there only then.
modprobe tun

echo "test-kernels: $(uname -srv), clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
cd "$directory" || exit
"$@" </dev/null
echo "test-kernels: status $?"
# Waits until the console has printed all.
stty -F /dev/console -echo
echo b >/proc/sysrq-trigger
