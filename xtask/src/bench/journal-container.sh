# A guest's systemd in namespaces that unshare(1) has made: the root stays as it is, /sys and /proc/sys are
# read-only, /dev has the harmless nodes only. Arguments: the guest's root, an empty folder, the corpus's journal, our
# programs, the corpus's writer, the machine id.
set -e
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
cd "$2/root"
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
mkdir -p var/log/journal opt/bench etc/systemd/journald.conf.d
mount --bind "$3" var/log/journal
mount --bind -o ro "$4" opt/bench
cp "$5" opt/writer.pl
rm -f etc/machine-id
echo "$6" > etc/machine-id
ln -sf /dev/null etc/systemd/system/seed-agent.service
ln -sf /dev/null etc/systemd/system/app.service
cat > etc/systemd/journald.conf.d/zz-bench.conf <<END
[Journal]
Storage=persistent
RateLimitIntervalSec=0
RateLimitBurst=0
SystemMaxUse=8G
SystemKeepFree=1M
SystemMaxFileSize=128M
END
cat > etc/systemd/system/corpus@.service <<END
[Service]
Type=oneshot
ExecStart=/usr/bin/perl /opt/writer.pl %i
TimeoutStartSec=infinity
END
cat > etc/systemd/system/live.service <<END
[Service]
Type=oneshot
ExecStart=/usr/bin/perl /opt/writer.pl live
END
cat > etc/systemd/system/bench-agent.service <<END
[Service]
ExecStart=/opt/bench/seed-agent --listen unix:/run/bench/agent.sock
RuntimeDirectory=bench
END
exec chroot . /usr/bin/env -i container=seed-bench /lib/systemd/systemd
