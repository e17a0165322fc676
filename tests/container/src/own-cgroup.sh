# A cgroup of its own, and then the rest in a cgroup namespace that begins there: systemds that shared one would end
# each other's services. Arguments: the rest as a script; then the rest's own arguments, of which the third is an empty
# folder below one with the container's name, seed-container-<process that made it>-<number>.
set -e
script=$1
shift
mount -t tmpfs tmpfs "$3"
mkdir "$3/cgroups"
mount -t cgroup2 cgroup2 "$3/cgroups"
# What containers of processes that are gone have left. A cgroup with a process in it stays.
for old in "$3/cgroups"/seed-container-*; do
    maker=${old##*/seed-container-}
    if [ -d "$old" ] && ! [ -d "/proc/${maker%%-*}" ]; then
        find "$old" -depth -type d -exec rmdir {} \; 2>/dev/null || :
    fi
done
# Where the machine hands controllers on, the container has them, too.
for controller in $(cat "$3/cgroups/cgroup.controllers"); do
    echo "+$controller" 2>/dev/null > "$3/cgroups/cgroup.subtree_control" || :
done
own=$3/cgroups/$(basename "$(dirname "$3")")
# Of a process that had this number before.
if [ -d "$own" ]; then
    find "$own" -depth -type d -exec rmdir {} \; 2>/dev/null || :
fi
mkdir "$own"
# 0 is whoever writes it.
echo 0 > "$own/cgroup.procs"
umount "$3/cgroups"
umount "$3"
exec unshare --cgroup -- sh -c "$script" sh "$@"
