# A guest's systemd in namespaces that unshare(1) has made: the root stays as it is, /sys and /proc/sys are
# read-only, /dev has the harmless nodes and those that are asked for. Arguments: the guest's root, the folder that lies
# over it, an empty folder; then three for each thing of the machine that is seen inside: `ro` or `rw`, where it is,
# where it is seen.
set -e
mount -t tmpfs tmpfs "$3"
mkdir "$3/upper" "$3/work" "$3/root"
mount -t overlay -o "lowerdir=$2:$1,upperdir=$3/upper,workdir=$3/work" overlay "$3/root"
cd "$3/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
shift 3
while [ $# -ge 3 ]; do
    if [ -d "$2" ]; then
        mkdir -p ".$3"
    elif ! [ -e ".$3" ]; then
        mkdir -p "$(dirname ".$3")"
        : > ".$3"
    fi
    mount --bind -o "$1" "$2" ".$3"
    shift 3
done
exec chroot . /usr/bin/env -i container=seed-test /lib/systemd/systemd
