#!/bin/sh
# Prints a Debian root as a tar archive: bootstrap.sh SUITE MIRROR PACKAGE,PACKAGE...
# Needs a mount namespace of its own: the root is made in memory, where dpkg's syncs cost nothing.
set -eu
mount -t tmpfs tmpfs /mnt
debootstrap --variant=minbase --include="$3" "$1" /mnt "$2" >&2
exec tar --create --directory /mnt \
    --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./var/cache/apt/*' \
    --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
    --exclude='./usr/share/locale/*' .
