#!/bin/busybox sh
# First process of the virtual machine: mounts what a node has, runs one command, tells how it
# ended, powers off.
#
# ttyS0 is the kernel's console and carries the marks below, ttyS1 carries the command's output and
# nothing else; the kernel's command line may name other devices. Each mark ends with this machine's
# own clock (CLOCK_BOOTTIME in seconds), which the other side compares with its own.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root
CONSOLE=${CONSOLE:-ttyS0} OUTPUT=${OUTPUT:-ttyS1}

# The kernel's first file system cannot be left by pivot_root(2), which container runtimes do: the
# same files under a mount of their own can.
if [ -e /vm/pivot ]; then
    rm /vm/pivot
    mkdir /vm/root
    mount --bind / /vm/root
    cd /vm/root && mount --move . / && exec chroot . /init
fi

# From here on the kernel can load modules on demand.
ln -s /usr/bin/kmod /usr/sbin/modprobe
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns /run/lock
mount -t securityfs securityfs /sys/kernel/security
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
hostname node
ip link set lo up
# The network cards, eth0 and eth1: nothing loads their driver by itself. They stay down.
modprobe -a virtio_pci virtio_net

# Kernel messages would tear the marks apart. A crash raises the level by itself.
echo 1 >/proc/sys/kernel/printk

. /vm/environment
stty -F /dev/$OUTPUT raw -echo rows "$LINES" cols "$COLUMNS"
read -r clock _ </proc/uptime
printf '\nSTALLPROBE-VM-UP %s\n' "$clock" >/dev/$CONSOLE

cd /work
if [ "$VM_TERMINAL" = 1 ]; then
    /vm/command </dev/null >/dev/$OUTPUT 2>&1
    status=$?
else
    # Behind a pipe, so that programs see no terminal.
    mkfifo /run/vm-output
    cat /run/vm-output >/dev/$OUTPUT &
    pump=$!
    /vm/command </dev/null >/run/vm-output 2>&1
    status=$?
    # A daemon left behind may hold the pipe open: give what is in it a moment, no more.
    { sleep 1; kill "$pump"; } 2>/dev/null &
    wait "$pump" 2>/dev/null
fi

# Setting a terminal's modes waits until everything written has been sent.
stty -F /dev/$OUTPUT raw
read -r clock _ </proc/uptime
printf '\nSTALLPROBE-VM-STATUS=%s %s\n' "$status" "$clock" >/dev/$CONSOLE
stty -F /dev/$CONSOLE raw
poweroff -f
